//! Images on disk as camera sources: a folder replayed in name order, and a recorded z-stack read at the stage's height.
//!
//! Every image is decoded once when the source is opened, on all cores: a folder with one that is unreadable, or that ends
//! behind an intact header, is refused at once, by name, rather than found out in the middle of a run.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::patches::PATCH;
use crate::units::Micrometres;

/// File endings that are taken for images.
const ENDINGS: [&str; 5] = ["png", "jpg", "jpeg", "tif", "tiff"];

/// Index of a stack's images, beside them.
const MANIFEST: &str = "manifest.csv";

/// Decoded pixels: width, height, interleaved RGB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pixels {
    /// Pixels per row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Interleaved RGB, 8 bits.
    pub rgb: Vec<u8>,
}

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
    #[error("{path} holds no PNG, JPEG or TIFF image")]
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
    next: usize,
}

impl ImageFolder {
    /// Opens a folder and decodes every image in it once.
    ///
    /// # Errors
    /// If the folder is unreadable or empty, or an image is unreadable or too small.
    pub fn open(folder: &Path) -> Result<Self, SourceError> {
        let unreadable = |error: std::io::Error| SourceError::Folder {
            path: folder.into(),
            reason: error.to_string(),
        };
        let entries = std::fs::read_dir(folder)
            .map_err(unreadable)?
            .collect::<Result<Vec<_>, _>>()
            .map_err(unreadable)?;
        let mut files: Vec<PathBuf> = entries
            .into_iter()
            .map(|entry| entry.path())
            .filter(|path| is_image(path))
            .collect();
        files.sort();
        if files.is_empty() {
            return Err(SourceError::Empty { path: folder.into() });
        }
        check_all(&files)?;
        Ok(Self { files, next: 0 })
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
    pub fn next_image(&mut self) -> Result<Pixels, SourceError> {
        let file = &self.files[self.next];
        self.next = (self.next + 1) % self.files.len();
        decode(file)
    }
}

/// A recorded z-stack: the image taken nearest to any height.
#[derive(Debug)]
pub struct ZStack {
    /// Sorted by height.
    planes: Vec<Plane>,
    decoded: Option<(usize, Pixels)>,
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
        check_all(&files)?;
        if planes.is_empty() {
            return Err(SourceError::Empty { path: folder.into() });
        }
        planes.sort_by(|a, b| a.z.0.total_cmp(&b.z.0));
        Ok(Self {
            planes,
            decoded: None,
        })
    }

    /// The image taken nearest to a height above the stack's zero, and the height it was taken at.
    ///
    /// # Errors
    /// If the image cannot be decoded.
    pub fn nearest(&mut self, z: Micrometres) -> Result<(Micrometres, &Pixels), SourceError> {
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
            none => none.insert((nearest, decode(&plane.file)?)),
        };
        Ok((plane.z, pixels))
    }
}

fn is_image(path: &Path) -> bool {
    let ending = path
        .extension()
        .and_then(|ending| ending.to_str())
        .unwrap_or_default()
        .to_lowercase();
    ENDINGS.contains(&ending.as_str())
}

/// Decodes all images and forgets them; the error is that of the first bad one.
fn check_all(files: &[impl AsRef<Path> + Sync]) -> Result<(), SourceError> {
    let bad = files
        .par_iter()
        .find_map_first(|file| read_image(file.as_ref()).err());
    bad.map_or(Ok(()), Err)
}

/// Size and format from the first bytes, without decoding.
fn check_head(path: &Path) -> Result<(), SourceError> {
    let broken = |reason: String| SourceError::Image {
        path: path.into(),
        reason,
    };
    let reader = image::ImageReader::open(path).and_then(image::ImageReader::with_guessed_format);
    let size = reader
        .map_err(|error| broken(error.to_string()))?
        .into_dimensions();
    let (width, height) = size.map_err(|error| broken(error.to_string()))?;
    if (width as usize) < PATCH || (height as usize) < PATCH {
        return Err(SourceError::TooSmall {
            path: path.into(),
            width,
            height,
        });
    }
    Ok(())
}

/// One image file as 8-bit RGB, at least one patch large.
///
/// # Errors
/// If it cannot be read or is too small.
pub fn read_image(path: &Path) -> Result<Pixels, SourceError> {
    check_head(path)?;
    check_tail(path)?;
    decode(path)
}

/// The decoder makes up what a JPEG that was cut off lacks: behind its last start of a scan must stand the end of the image.
/// Both marks cannot occur in a scan's data (ITU T.81, B.1.1).
fn check_tail(path: &Path) -> Result<(), SourceError> {
    let broken = |reason: String| SourceError::Image {
        path: path.into(),
        reason,
    };
    let bytes = std::fs::read(path).map_err(|error| broken(error.to_string()))?;
    let last = |mark: [u8; 2]| bytes.windows(2).rposition(|pair| pair == mark);
    let is_jpeg = bytes.starts_with(&[0xff, 0xd8]);
    if is_jpeg && last([0xff, 0xd9]) < last([0xff, 0xda]) {
        return Err(broken(
            "it was cut off: the mark of its end is missing".to_owned(),
        ));
    }
    Ok(())
}

fn decode(path: &Path) -> Result<Pixels, SourceError> {
    let image = image::open(path).map_err(|error| SourceError::Image {
        path: path.into(),
        reason: error.to_string(),
    })?;
    let rgb = image.into_rgb8();
    Ok(Pixels {
        width: rgb.width() as usize,
        height: rgb.height() as usize,
        rgb: rgb.into_raw(),
    })
}

#[cfg(test)]
mod tests {
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
        let greys: Vec<u8> = (0..3).map(|_| source.next_image().unwrap().rgb[0]).collect();
        assert_eq!(greys, [1, 2, 1]);
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
            assert_eq!((z.0, pixels.rgb[0]), (expected_um, grey), "{z_um}");
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
