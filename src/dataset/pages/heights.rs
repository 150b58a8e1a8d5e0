//! What the description of a TIFF says of the heights of its pages.
//!
//! ImageJ: lines `key=value` behind `ImageJ=VERSION` (`images`, `channels`, `frames`, `spacing`, `unit`). OME: XML by the schema of
//! June 2016; `Plane/@PositionZ` where every plane has one, else `Pixels/@PhysicalSizeZ`.

use crate::table::Unit;

/// Heights above the first page, µm, or half a sentence on why there are none.
pub(super) fn stated(description: &str, pages: usize) -> Result<Vec<f64>, String> {
    if description.starts_with("ImageJ=") {
        imagej(description, pages)
    } else if description.contains("<OME") || description.contains(":OME") {
        ome(description, pages)
    } else if pages == 1 {
        Ok(vec![0.0])
    } else {
        Err("it does not say at which heights they were taken".to_owned())
    }
}

fn imagej(description: &str, pages: usize) -> Result<Vec<f64>, String> {
    let value = |key: &str| {
        let entries = description.lines().filter_map(|line| line.split_once('='));
        entries
            .filter(|(name, _)| name.trim() == key)
            .map(|(_, value)| value.trim())
            .next_back()
    };
    let count = |key: &str| value(key).map_or(Ok(1), |text| text.parse::<usize>().map_err(|_| text));
    for (key, what) in [
        ("channels", "channels as pages of their own"),
        ("frames", "times"),
    ] {
        match count(key) {
            Ok(0 | 1) => {}
            Ok(many) => return Err(format!("it holds {many} {what}: save one z-stack in RGB or grey")),
            Err(text) => return Err(format!("its ImageJ description says {key}={}", clip(text))),
        }
    }
    if let Some(images) = value("images").and_then(|text| text.parse::<usize>().ok())
        && images != pages
    {
        return Err(format!(
            "its ImageJ description says {images} images: save it again as a plain TIFF"
        ));
    }
    if pages == 1 {
        return Ok(vec![0.0]);
    }
    // ImageJ escapes what is not ASCII.
    let unit = value("unit").map(|unit| unit.replace("\\u00B5", "µ").replace("\\u00b5", "µ"));
    let unit = unit.as_deref().and_then(Unit::parse);
    let spacing = value("spacing").and_then(|text| text.parse::<f64>().ok());
    match (spacing, unit) {
        (Some(spacing), Some(unit)) => spaced(spacing * unit.um(), pages),
        (Some(_), None) => Err("its ImageJ description states a spacing without a unit of length".to_owned()),
        (None, _) => Err("its ImageJ description states no spacing of the slices".to_owned()),
    }
}

fn spaced(spacing_um: f64, pages: usize) -> Result<Vec<f64>, String> {
    if !spacing_um.is_finite() || spacing_um <= 0.0 {
        return Err(format!("it states a spacing of {spacing_um} µm"));
    }
    Ok((0..pages).map(|page| page as f64 * spacing_um).collect())
}

fn clip(text: &str) -> String {
    text.chars().take(20).flat_map(char::escape_debug).collect()
}

fn ome(description: &str, pages: usize) -> Result<Vec<f64>, String> {
    let from = description.find('<').unwrap_or_default();
    let document = roxmltree::Document::parse(description[from..].trim_end_matches(['\0', ' ', '\n', '\r']))
        .map_err(|error| format!("its OME description is not XML ({error})"))?;
    let all = || document.descendants();
    let mut pixels = all().filter(|node| node.tag_name().name() == "Pixels");
    let Some(first) = pixels.next() else {
        return Err("its OME description names no pixels".to_owned());
    };
    if pixels.next().is_some() {
        return Err("its OME description names several images: save one z-stack to a file".to_owned());
    }
    let size = |name: &str| first.attribute(name).and_then(|text| text.parse::<usize>().ok());
    if size("SizeT").unwrap_or(1) != 1 || size("SizeZ") != Some(pages) {
        return Err(format!(
            "its OME description says {} heights and {} times: save one z-stack in RGB or grey",
            size("SizeZ").unwrap_or(0),
            size("SizeT").unwrap_or(1)
        ));
    }
    if pages == 1 {
        return Ok(vec![0.0]);
    }
    check_order(&first, pages)?;
    let planes = first.children().filter(|node| node.tag_name().name() == "Plane");
    let mut positions = vec![None; pages];
    for plane in planes {
        let at = plane
            .attribute("TheZ")
            .and_then(|text| text.parse::<usize>().ok());
        let Some(position) = at.and_then(|at| positions.get_mut(at)) else {
            return Err("its OME description places a plane that is not there".to_owned());
        };
        let unit = plane
            .attribute("PositionZUnit")
            .map_or(Some(Unit::Micrometre), Unit::parse);
        let number = plane
            .attribute("PositionZ")
            .and_then(|text| text.parse::<f64>().ok());
        *position = number.zip(unit).map(|(number, unit)| number * unit.um());
    }
    let placed: Option<Vec<f64>> = positions.into_iter().collect();
    if let Some(placed) = placed.filter(|placed| placed.iter().all(|um| um.is_finite()))
        // Some programs write 0 for each.
        && placed.iter().any(|um| *um != placed[0])
    {
        return Ok(placed.iter().map(|um| um - placed[0]).collect());
    }
    let unit = first
        .attribute("PhysicalSizeZUnit")
        .map_or(Some(Unit::Micrometre), Unit::parse);
    let spacing = first
        .attribute("PhysicalSizeZ")
        .and_then(|text| text.parse::<f64>().ok());
    match spacing.zip(unit) {
        Some((spacing, unit)) => spaced(spacing * unit.um(), pages),
        None => {
            Err("its OME description states neither positions nor a spacing in a unit of length".to_owned())
        }
    }
}

/// Refuses planes that lie in another order, or in other files.
fn check_order(pixels: &roxmltree::Node, pages: usize) -> Result<(), String> {
    let number =
        |node: &roxmltree::Node, name: &str| node.attribute(name).and_then(|text| text.parse::<usize>().ok());
    for data in pixels
        .children()
        .filter(|node| node.tag_name().name() == "TiffData")
    {
        let one_by_one = number(&data, "IFD").unwrap_or(0) == number(&data, "FirstZ").unwrap_or(0);
        let inside = number(&data, "PlaneCount").unwrap_or(1) <= pages;
        if !one_by_one || !inside {
            return Err(
                "its OME description orders the planes in another way than its pages: save it again"
                    .to_owned(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(description: &str, pages: usize, expected: Result<&[f64], &str>) {
        match (stated(description, pages), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{description}"),
            (Err(found), Err(words)) => assert!(found.contains(words), "{description}: {found}"),
            (found, _) => panic!("{description}: {found:?}"),
        }
    }

    #[test]
    fn imagej_states_a_spacing() {
        for (text, pages, expected) in [
            (
                "ImageJ=1.53k\nimages=3\nslices=3\nspacing=2.5\nunit=micron\n",
                3,
                Ok(&[0.0, 2.5, 5.0][..]),
            ),
            (
                "ImageJ=1.11a\nimages=2\nslices=2\nspacing=0.5\nunit=\\u00B5m\n",
                2,
                Ok(&[0.0, 0.5]),
            ),
            (
                "ImageJ=1.11a\nimages=2\nslices=2\nspacing=500\nunit=nm\n",
                2,
                Ok(&[0.0, 0.5]),
            ),
            (
                "ImageJ=1.11a\nimages=2\nslices=2\nspacing=0.5\nunit=pixel\n",
                2,
                Err("without a unit"),
            ),
            ("ImageJ=1.11a\nimages=2\nslices=2\n", 2, Err("no spacing")),
            (
                "ImageJ=1.11a\nimages=2\nspacing=-1\nunit=um\n",
                2,
                Err("spacing of -1"),
            ),
            (
                "ImageJ=1.11a\nimages=2\nspacing=nan\nunit=um\n",
                2,
                Err("spacing of NaN"),
            ),
            (
                "ImageJ=1.11a\nimages=9\nspacing=1\nunit=um\n",
                2,
                Err("says 9 images"),
            ),
            (
                "ImageJ=1.11a\nimages=6\nchannels=3\nslices=2\nspacing=1\nunit=um\n",
                6,
                Err("3 channels"),
            ),
            ("ImageJ=1.11a\nimages=2\nframes=2\n", 2, Err("2 times")),
            ("ImageJ=1.11a\nimages=2\nframes=x\n", 2, Err("frames=x")),
            ("ImageJ=1.11a\n", 1, Ok(&[0.0])),
            ("", 1, Ok(&[0.0])),
            ("", 2, Err("does not say")),
        ] {
            check(text, pages, expected);
        }
    }

    #[test]
    fn ome_states_positions_or_a_spacing() {
        let ome = |pixels: &str| {
            format!("<?xml version=\"1.0\"?><OME xmlns=\"x\"><Image><Pixels {pixels}</Pixels></Image></OME>")
        };
        let plane =
            |z: usize, um: &str| format!("<Plane TheZ=\"{z}\" TheT=\"0\" TheC=\"0\" PositionZ=\"{um}\"/>");
        for (pixels, pages, expected) in [
            (
                format!("SizeZ=\"2\" SizeT=\"1\">{}{}", plane(0, "100"), plane(1, "98.5")),
                2,
                Ok(&[0.0, -1.5][..]),
            ),
            (
                "SizeZ=\"3\" PhysicalSizeZ=\"2\">".to_owned(),
                3,
                Ok(&[0.0, 2.0, 4.0]),
            ),
            (
                "SizeZ=\"2\" PhysicalSizeZ=\"500\" PhysicalSizeZUnit=\"nm\">".to_owned(),
                2,
                Ok(&[0.0, 0.5]),
            ),
            (
                "SizeZ=\"2\" PhysicalSizeZ=\"1\" PhysicalSizeZUnit=\"pixel\">".to_owned(),
                2,
                Err("neither"),
            ),
            (
                format!(
                    "SizeZ=\"2\" PhysicalSizeZ=\"3\">{}{}",
                    plane(0, "0"),
                    plane(1, "0")
                ),
                2,
                Ok(&[0.0, 3.0]),
            ),
            (
                "SizeZ=\"2\" SizeT=\"2\">".to_owned(),
                4,
                Err("2 heights and 2 times"),
            ),
            (format!("SizeZ=\"2\">{}", plane(7, "1")), 2, Err("not there")),
            (
                "SizeZ=\"2\" PhysicalSizeZ=\"1\"><TiffData IFD=\"1\" FirstZ=\"0\"/>".to_owned(),
                2,
                Err("another way"),
            ),
        ] {
            check(&ome(&pixels), pages, expected);
        }
        check("<OME", 2, Err("not XML"));
        check("<OME/>", 2, Err("no pixels"));
    }
}
