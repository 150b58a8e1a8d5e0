//! Images on disk as camera sources: a folder replayed in name order, and a recorded z-stack read at the stage's height.
//!
//! Every image is decoded once when the source is opened, on all cores: a folder with one that is unreadable, or that ends
//! behind an intact header, is refused at once, by name, rather than found out in the middle of a run. What a file holds is told by
//! its content; hidden files, as other systems leave them beside images, and folders in the folder are left out.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use image::{DynamicImage, ImageReader, Limits, RgbImage};
use rayon::prelude::*;

use crate::dataset::pages::is_image;
use crate::encoding::Depth;
use crate::estimate::patches::PATCH;
use crate::units::Micrometres;

/// Most pixels of an image, so that all cores can decode one at a time.
const MAX_PIXELS: u64 = 80_000_000;

/// Most bytes that decoding one may take: four samples of 32 bits a pixel.
const MAX_BYTES: u64 = 16 * MAX_PIXELS;

/// File endings of images: a file that has one and holds none is refused.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "tif", "tiff"];

/// Index of a stack's images, beside them.
const MANIFEST: &str = "manifest.csv";

/// Why a source of images cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The folder or its manifest cannot be read.
    #[error("{path} cannot be read ({reason}): give a folder of PNG, JPEG or TIFF images")]
    Folder {
        /// What was opened.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The folder holds no image.
    #[error("{path} holds no PNG, JPEG or TIFF image: give a folder with some")]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// One of the images is broken.
    #[error("image {path} cannot be read ({reason}): repair it or take it out of the folder")]
    Image {
        /// The image.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// One of the images is larger than a camera's.
    #[error("image {path} is too large: {width}x{height} pixels, the limit is {} megapixels; cut it", MAX_PIXELS / 1_000_000)]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// One of the images is too small for a single patch.
    #[error("image {path} is {width}x{height}: at least {PATCH}x{PATCH} pixels are needed")]
    TooSmall {
        /// The image.
        path: PathBuf,
        /// Pixels per row.
        width: u32,
        /// Rows.
        height: u32,
    },
    /// A row of the manifest is wrong.
    #[error("{path}: {reason}: each row needs a file name and a finite z_um under the header `file,z_um`")]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The images of a folder in name order, over and over.
#[derive(Debug)]
pub struct ImageFolder {
    files: Vec<PathBuf>,
    depth: Depth,
    next: usize,
}

impl ImageFolder {
    /// Opens a folder and decodes every image in it once.
    ///
    /// # Errors
    /// If the folder is unreadable or empty, or an image is unreadable or too small.
    pub fn open(folder: &Path) -> Result<Self, SourceError> {
        let files = images_in(folder)?;
        if files.is_empty() {
            return Err(SourceError::Empty { path: folder.into() });
        }
        let depth = check_all(&files)?;
        Ok(Self {
            files,
            depth,
            next: 0,
        })
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Never true: an empty folder is refused.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The next image; after the last comes the first.
    ///
    /// # Errors
    /// If the image cannot be decoded.
    pub fn next_image(&mut self) -> Result<RgbImage, SourceError> {
        let file = &self.files[self.next];
        self.next = (self.next + 1) % self.files.len();
        decode(file, &mut self.depth)
    }
}

/// A recorded z-stack: the image taken nearest to any height.
#[derive(Debug)]
pub struct ZStack {
    /// Sorted by height.
    planes: Vec<Plane>,
    depth: Depth,
    decoded: Option<(usize, RgbImage)>,
}

#[derive(Debug)]
struct Plane {
    z: Micrometres,
    file: PathBuf,
}

impl ZStack {
    /// Opens a folder with a `manifest.csv` of `file,z_um` and decodes every image it names once.
    ///
    /// # Errors
    /// If the manifest or an image it names cannot be used.
    pub fn open(folder: &Path) -> Result<Self, SourceError> {
        let path = folder.join(MANIFEST);
        let wrong = |reason: String| SourceError::Manifest {
            path: path.clone(),
            reason,
        };
        let bytes =
            super::whole_file::read_at_most(&path, crate::table::MAX_BYTES as u64).map_err(|error| {
                SourceError::Folder {
                    path: path.clone(),
                    reason: error.to_string(),
                }
            })?;
        let lines = crate::dataset::stack::parse(&bytes).map_err(|error| wrong(error.to_string()))?;
        let mut planes: Vec<Plane> = lines
            .into_iter()
            .map(|line| Plane {
                z: Micrometres(line.z_um),
                file: folder.join(line.file),
            })
            .collect();
        let files: Vec<_> = planes.iter().map(|plane| &plane.file).collect();
        let depth = check_all(&files)?;
        if planes.is_empty() {
            return Err(SourceError::Empty { path: folder.into() });
        }
        planes.sort_by(|a, b| a.z.0.total_cmp(&b.z.0));
        Ok(Self {
            planes,
            depth,
            decoded: None,
        })
    }

    /// The image taken nearest to a height above the stack's zero, and the height it was taken at.
    ///
    /// # Errors
    /// If the image cannot be decoded.
    pub fn nearest(&mut self, z: Micrometres) -> Result<(Micrometres, &RgbImage), SourceError> {
        let distance = |index: &usize| (self.planes[*index].z - z).abs().0;
        let nearest = (0..self.planes.len())
            .min_by(|a, b| distance(a).total_cmp(&distance(b)))
            .unwrap_or(0);
        if self.decoded.as_ref().is_none_or(|(index, _)| *index != nearest) {
            self.decoded = None;
        }
        let plane = &self.planes[nearest];
        let (_, pixels) = match &mut self.decoded {
            Some(decoded) => decoded,
            none => none.insert((nearest, decode(&plane.file, &mut self.depth)?)),
        };
        Ok((plane.z, pixels))
    }
}

/// These images as 8-bit RGB; of 16 bits a sample, as many as all of them together use.
///
/// # Errors
/// That of the first that cannot be decoded, is too small or too large.
pub fn read_all(files: &[PathBuf]) -> Result<Vec<RgbImage>, SourceError> {
    let mut depth = check_all(files)?;
    files.iter().map(|file| decode(file, &mut depth)).collect()
}

/// Whether a file is one that its system does not show, or that a file browser left behind: `._a.png`, `.DS_Store`, `Thumbs.db`.
pub fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || ["thumbs.db", "desktop.ini"].contains(&name.to_lowercase().as_str())
}

/// The images of a folder in name order: regular files that are not hidden and that are images by their content, or should be by their
/// ending.
fn images_in(folder: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let unreadable = |error: std::io::Error| SourceError::Folder {
        path: folder.into(),
        reason: error.to_string(),
    };
    let entries: Result<Vec<_>, _> = std::fs::read_dir(folder).map_err(unreadable)?.collect();
    let paths = entries.map_err(unreadable)?.into_iter().map(|entry| entry.path());
    let mut files: Vec<PathBuf> = paths
        .filter(|path| !is_hidden(path) && path.is_file() && (has_ending(path) || holds_image(path)))
        .collect();
    files.sort();
    Ok(files)
}

fn has_ending(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    ENDINGS.contains(&ending.to_lowercase().as_str())
}

/// Whether a file's first bytes are those of an image that can be read; a file that cannot be read is none.
pub fn holds_image(path: &Path) -> bool {
    let mut head = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(32).read_to_end(&mut head));
    read.is_ok() && is_image(&head)
}

/// Decodes all images and forgets them: what the samples of all together use. The error is that of the first bad one.
fn check_all(files: &[impl AsRef<Path> + Sync]) -> Result<Depth, SourceError> {
    let depths = files.par_iter().map(|file| {
        let mut depth = Depth::default();
        read_image(file.as_ref(), &mut depth).map(|_| depth)
    });
    let every: Vec<_> = depths.collect();
    every
        .into_iter()
        .try_fold(Depth::default(), |all, depth| Ok(all.max(depth?)))
}

/// A decoder for a file, by its content.
fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>, SourceError> {
    let reader = ImageReader::open(path).and_then(ImageReader::with_guessed_format);
    let mut reader = reader.map_err(|error| broken(path, error))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    Ok(reader)
}

fn broken(path: &Path, reason: impl std::fmt::Display) -> SourceError {
    SourceError::Image {
        path: path.into(),
        reason: reason.to_string(),
    }
}

/// Size and format from the first bytes, without decoding.
fn check_head(path: &Path) -> Result<(), SourceError> {
    let size = reader(path)?.into_dimensions();
    let (width, height) = size.map_err(|error| broken(path, error))?;
    let path = path.to_path_buf();
    if (width as usize) < PATCH || (height as usize) < PATCH {
        return Err(SourceError::TooSmall { path, width, height });
    }
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(SourceError::TooLarge { path, width, height });
    }
    Ok(())
}

/// One image file as 8-bit RGB, at least one patch large; of 16 bits a sample, as many as the images of one camera use, which share
/// their `depth`.
fn read_image(path: &Path, depth: &mut Depth) -> Result<RgbImage, SourceError> {
    check_head(path)?;
    check_tail(path)?;
    decode(path, depth)
}

/// The decoder makes up what a JPEG that was cut off lacks: behind its last start of a scan must stand the end of the image.
/// Both marks cannot occur in a scan's data (ITU T.81, B.1.1).
fn check_tail(path: &Path) -> Result<(), SourceError> {
    let bytes = std::fs::read(path).map_err(|error| broken(path, error))?;
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| pair == mark);
    let is_jpeg = bytes.starts_with(&[0xff, 0xd8]);
    if is_jpeg && last([0xff, 0xd9]) < last([0xff, 0xda]) {
        return Err(broken(path, "it was cut off: the mark of its end is missing"));
    }
    Ok(())
}

fn decode(path: &Path, depth: &mut Depth) -> Result<RgbImage, SourceError> {
    let image = reader(path)?.decode().map_err(|error| broken(path, error))?;
    Ok(match image {
        DynamicImage::ImageLuma16(_)
        | DynamicImage::ImageLumaA16(_)
        | DynamicImage::ImageRgb16(_)
        | DynamicImage::ImageRgba16(_) => {
            let deep = image.into_rgb16();
            depth.grow(deep.iter().copied());
            let mut image = RgbImage::new(deep.width(), deep.height());
            for (value, &sample) in image.iter_mut().zip(deep.iter()) {
                *value = depth.narrow(sample);
            }
            image
        }
        image => image.into_rgb8(),
    })
}

#[cfg(test)]
mod tests {
    use image::ImageFormat;

    use super::*;

    fn write(folder: &Path, name: &str, side: u32, grey: u8) {
        image::RgbImage::from_pixel(side, side, image::Rgb([grey; 3]))
            .save(folder.join(name))
            .unwrap();
    }

    fn check_refused(folder: &Path, words: [&str; 2]) {
        let message = ImageFolder::open(folder).unwrap_err().to_string();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    }

    #[test]
    fn folders_replay_in_name_order_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "b.png", 300, 2);
        write(folder.path(), "a.png", 300, 1);
        std::fs::write(folder.path().join("notes.txt"), "ignored").unwrap();
        let mut source = ImageFolder::open(folder.path()).unwrap();
        let greys: Vec<u8> = (0..3).map(|_| source.next_image().unwrap().as_raw()[0]).collect();
        assert_eq!(greys, [1, 2, 1]);
    }

    #[test]
    fn files_are_told_by_their_content_and_hidden_ones_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        write(folder.path(), "a.png", 300, 1);
        write(folder.path(), "b.jpg", 300, 2);
        std::fs::rename(at("b.jpg"), at("b.png")).unwrap();
        write(folder.path(), "c.tif", 300, 3);
        std::fs::rename(at("c.tif"), at("c")).unwrap();
        std::fs::write(at("._a.png"), "resource fork").unwrap();
        std::fs::write(at(".hidden.png"), "").unwrap();
        std::fs::write(at("Thumbs.db"), [0; 300]).unwrap();
        std::fs::write(at("notes.txt"), "ignored").unwrap();
        std::fs::create_dir(at("folder.png")).unwrap();
        let mut source = ImageFolder::open(folder.path()).unwrap();
        let greys: Vec<u8> = (0..4).map(|_| source.next_image().unwrap().as_raw()[0]).collect();
        assert_eq!(greys, [1, 2, 3, 1]);
    }

    #[test]
    fn twelve_bits_of_sixteen_keep_their_brightness_in_every_image() {
        let folder = tempfile::tempdir().unwrap();
        for (name, grey) in [("a.tif", 3200_u16), ("b.png", 160)] {
            image::ImageBuffer::from_pixel(300, 300, image::Luma([grey]))
                .save(folder.path().join(name))
                .unwrap();
        }
        let mut source = ImageFolder::open(folder.path()).unwrap();
        let greys: Vec<u8> = (0..2).map(|_| source.next_image().unwrap().as_raw()[0]).collect();
        assert_eq!(greys, [200, 10]);
        assert_eq!(
            read_image(&folder.path().join("a.tif"), &mut Depth::default())
                .unwrap()
                .as_raw()[..3],
            [200; 3]
        );
    }

    #[test]
    fn an_image_that_is_too_large_is_refused_with_its_size() {
        let folder = tempfile::tempdir().unwrap();
        // The header of a PNG of 20000x5000 pixels: nothing is decoded before the size is known.
        let mut png = Vec::new();
        image::RgbImage::new(1, 1)
            .write_to(&mut std::io::Cursor::new(&mut png), ImageFormat::Png)
            .unwrap();
        png[16..24].copy_from_slice(&[20_000_u32.to_be_bytes(), 5_000_u32.to_be_bytes()].concat());
        let crc = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&crc.to_be_bytes());
        std::fs::write(folder.path().join("wide.png"), png).unwrap();
        check_refused(
            folder.path(),
            ["wide.png is too large: 20000x5000", "80 megapixels"],
        );
    }

    /// The check sum of PNG, bit by bit.
    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |sum, &byte| {
            (0..8).fold(sum ^ u32::from(byte), |sum, _| {
                (sum >> 1) ^ (0xedb8_8320 * (sum & 1))
            })
        })
    }

    #[test]
    fn bad_folders_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        check_refused(&folder.path().join("absent"), ["absent", "cannot be read"]);
        check_refused(folder.path(), ["holds no", "PNG"]);
        write(folder.path(), "small.png", 299, 0);
        check_refused(folder.path(), ["small.png", "299x299"]);
        std::fs::write(folder.path().join("broken.png"), "not an image").unwrap();
        check_refused(folder.path(), ["broken.png", "repair"]);
    }

    /// Cuts a file in the middle.
    fn truncate(path: &Path) {
        let bytes = std::fs::read(path).unwrap();
        std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    }

    #[test]
    fn images_that_end_behind_their_header_are_refused_by_name() {
        for name in ["torn.png", "torn.jpg", "torn.tif"] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "good.png", 300, 1);
            write(folder.path(), name, 300, 2);
            std::fs::write(folder.path().join(MANIFEST), format!("file,z_um\n{name},1\n")).unwrap();
            assert!(ImageFolder::open(folder.path()).is_ok() && ZStack::open(folder.path()).is_ok());
            truncate(&folder.path().join(name));
            // A TIFF may have its directory at the end.
            assert!(name == "torn.tif" || check_head(&folder.path().join(name)).is_ok());
            check_refused(folder.path(), [name, "repair"]);
            let message = ZStack::open(folder.path()).unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn stacks_answer_with_the_nearest_plane() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "low.png", 300, 1);
        write(folder.path(), "high.png", 300, 2);
        std::fs::write(
            folder.path().join(MANIFEST),
            "file,z_um,x_um\nhigh.png,10,0\nlow.png,-5.5,0\n",
        )
        .unwrap();
        let mut stack = ZStack::open(folder.path()).unwrap();
        for (z_um, expected_um, grey) in [(-90.0, -5.5, 1), (2.0, -5.5, 1), (2.5, 10.0, 2), (300.0, 10.0, 2)]
        {
            let (z, pixels) = stack.nearest(Micrometres(z_um)).unwrap();
            assert_eq!((z.0, pixels.as_raw()[0]), (expected_um, grey), "{z_um}");
        }
        std::fs::write(folder.path().join(MANIFEST), "file,z_um\nhigh.png,ten\n").unwrap();
        assert!(
            ZStack::open(folder.path())
                .unwrap_err()
                .to_string()
                .contains("z_um")
        );
        std::fs::write(folder.path().join(MANIFEST), "file,z_um\ngone.png,1\n").unwrap();
        assert!(
            ZStack::open(folder.path())
                .unwrap_err()
                .to_string()
                .contains("gone.png")
        );
    }
}
