//! `bert embed`: sentence vectors of texts, in a file.
//!
//! Owns the order of things: a window of texts is read, computed and written before the next one, so that memory does
//! not grow with the input. Vectors are the business of [`crate::sentences`].

use std::{io::Write, path::Path};

use anyhow::Context;

use crate::{
    cli::EmbedArguments,
    failure::ToolError,
    npy::NpyWriter,
    output_file::OutputFile,
    sentences::{SentenceEncoder, TextCounts, normalize},
    table::{line, thousands, warn},
    text_input::{LineForm, TextInput},
    text_progress::TextProgress,
};

/// Runs the command.
///
/// # Errors
///
/// If the model, the input or the output is not what it should be; the output is untouched then.
pub fn run(arguments: &EmbedArguments) -> anyhow::Result<()> {
    let format = VectorFormat::of(&arguments.output)?;
    let form = LineForm::of(&arguments.input, arguments.field.as_deref());
    let mut input = TextInput::open(&arguments.input, form)?;
    let file = OutputFile::create(&arguments.output)?;
    let encoder = SentenceEncoder::load(&arguments.model)?;
    let cannot_write = || format!("cannot write `{}`", arguments.output.display());

    let mut output = VectorFile::new(file, format, encoder.width()).with_context(cannot_write)?;
    let mut progress = TextProgress::new(input.num_bytes());
    let mut counts = TextCounts::default();
    loop {
        let start = input.num_bytes_read();
        let rows = next_window(&mut input, &encoder, &mut counts)?;
        if rows.is_empty() {
            break;
        }
        let num_bytes = input.num_bytes_read() - start;
        let mut num_done = 0;
        let mut vectors = encoder.vectors_of(&rows, encoder.pooling(), |num_more| {
            num_done += num_more;
            progress.advance(num_more, start + num_bytes * num_done as u64 / rows.len() as u64);
        })?;
        for vector in vectors.chunks_exact_mut(encoder.width()) {
            if arguments.normalize {
                normalize(vector);
            }
            output.push(vector).with_context(cannot_write)?;
        }
    }
    let num_texts = output.finish().with_context(cannot_write)?;
    let texts_per_second = progress.finish();
    counts.warnings(encoder.max_length()).iter().for_each(warn);
    line(format!(
        "wrote {}: {} vectors of {} numbers (pooling {}), {texts_per_second:.0} texts/s",
        arguments.output.display(),
        thousands(num_texts),
        encoder.width(),
        encoder.pooling().name(),
    ));
    Ok(())
}

/// Ids of the next texts, as many as are computed together; none at the end.
fn next_window(
    input: &mut TextInput,
    encoder: &SentenceEncoder,
    counts: &mut TextCounts,
) -> anyhow::Result<Vec<Vec<u32>>> {
    let mut rows = Vec::new();
    while rows.len() < encoder.window_size() {
        match input.next_text()? {
            Some(text) => rows.push(encoder.encode(&text, counts)?),
            None => break,
        }
    }
    Ok(rows)
}

/// How vectors are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum VectorFormat {
    Npy,
    JsonLines,
}

impl VectorFormat {
    fn of(path: &Path) -> anyhow::Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("npy") => Ok(Self::Npy),
            Some("jsonl") => Ok(Self::JsonLines),
            _ => {
                let message = format!("--output is `{}`, expected a name in .npy or .jsonl", path.display());
                Err(ToolError::Usage(message).into())
            }
        }
    }
}

/// The file of vectors, row by row.
enum VectorFile {
    Npy(NpyWriter),
    JsonLines { file: OutputFile, num_rows: u64 },
}

impl VectorFile {
    fn new(file: OutputFile, format: VectorFormat, width: usize) -> std::io::Result<Self> {
        Ok(match format {
            VectorFormat::Npy => Self::Npy(NpyWriter::new(file, width)?),
            VectorFormat::JsonLines => Self::JsonLines { file, num_rows: 0 },
        })
    }

    fn push(&mut self, vector: &[f32]) -> std::io::Result<()> {
        match self {
            Self::Npy(writer) => writer.push(vector),
            Self::JsonLines { file, num_rows } => {
                write!(file, "{{\"index\":{num_rows},\"vector\":")?;
                serde_json::to_writer(&mut *file, vector)?;
                *num_rows += 1;
                file.write_all(b"}\n")
            }
        }
    }

    /// Makes the file appear; how many vectors it holds.
    fn finish(self) -> std::io::Result<u64> {
        match self {
            Self::Npy(writer) => writer.finish(),
            Self::JsonLines { file, num_rows } => file.finish().map(|()| num_rows),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_the_output_says_its_format() {
        assert_eq!(VectorFormat::of(Path::new("a/b.npy")).unwrap(), VectorFormat::Npy);
        assert_eq!(VectorFormat::of(Path::new("b.jsonl")).unwrap(), VectorFormat::JsonLines);
        let error = VectorFormat::of(Path::new("b.csv")).unwrap_err().to_string();
        assert_eq!(error, "--output is `b.csv`, expected a name in .npy or .jsonl");
    }
}
