//! What a file of text is, told by its name: how documents lie in it and how it is packed.
//!
//! Never opens a file.

use std::path::Path;

/// How documents lie in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextLayout {
    /// One sentence per line, a blank line ends a document.
    Lines,
    /// One JSON object per line, one document in its field `text`.
    JsonRows,
    /// One row per document, in the column `text`.
    Parquet,
}

/// How a file is compressed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPacking {
    /// Not at all.
    Plain,
    /// gzip, any number of members.
    Gzip,
    /// Zstandard, any number of frames.
    Zstd,
}

/// Layout and packing of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextFormat {
    /// How documents lie in the file, once it is unpacked.
    pub layout: TextLayout,
    /// How it is packed.
    pub packing: TextPacking,
}

impl TextFormat {
    /// The format a file name stands for; an unknown or missing extension is plain text.
    ///
    /// # Errors
    ///
    /// The extension of a format that is known not to be text.
    pub(super) fn of(path: &Path) -> Result<Self, String> {
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let (stem, packing) = if let Some(stem) = name.strip_suffix(".gz") {
            (stem, TextPacking::Gzip)
        } else if let Some(stem) = name.strip_suffix(".zst") {
            (stem, TextPacking::Zstd)
        } else {
            (name.as_str(), TextPacking::Plain)
        };
        let extension = Path::new(stem).extension().map(|e| e.to_string_lossy()).unwrap_or_default();
        let layout = match (extension.as_ref(), packing) {
            ("jsonl", _) => TextLayout::JsonRows,
            ("parquet", TextPacking::Plain) => TextLayout::Parquet,
            ("json" | "parquet" | "bz2" | "xz" | "zip" | "tar" | "tgz" | "csv" | "tsv", _) => {
                return Err(name[stem.len() - extension.len()..].to_owned());
            }
            _ => TextLayout::Lines,
        };
        Ok(Self { layout, packing })
    }

    /// Whether a file in a folder is taken for text without being named.
    pub(super) fn is_found_in_folders(path: &Path) -> bool {
        let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
        let stem = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
        stem.ends_with(".txt") || stem.ends_with(".jsonl") || name.ends_with(".parquet")
    }

    /// Whether a part of the file can be read without what is before it.
    pub fn can_be_cut(self) -> bool {
        self.packing == TextPacking::Plain && self.layout != TextLayout::Parquet
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TextLayout::{JsonRows, Lines, Parquet};
    use TextPacking::{Gzip, Plain, Zstd};

    #[test]
    fn names_tell_the_format() {
        for (name, layout, packing) in [
            ("a.txt", Lines, Plain),
            ("a", Lines, Plain),
            ("a.TXT.GZ", Lines, Gzip),
            ("a.gz", Lines, Gzip),
            ("a.jsonl", JsonRows, Plain),
            ("a.b.jsonl.zst", JsonRows, Zstd),
            ("a.parquet", Parquet, Plain),
        ] {
            let expected = TextFormat { layout, packing };
            assert_eq!(TextFormat::of(Path::new(name)), Ok(expected), "{name}");
            assert_eq!(expected.can_be_cut(), packing == Plain && layout != Parquet);
        }
        for (name, extension) in
            [("a.json", "json"), ("a.csv.gz", "csv.gz"), ("a.parquet.zst", "parquet.zst")]
        {
            assert_eq!(TextFormat::of(Path::new(name)), Err(extension.to_owned()));
        }
        for (name, expected) in
            [("a.txt.zst", true), ("a.md", false), ("a.gz", false), ("b.parquet.gz", false)]
        {
            assert_eq!(TextFormat::is_found_in_folders(Path::new(name)), expected, "{name}");
        }
    }
}
