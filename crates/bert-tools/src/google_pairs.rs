//! `bert corpus google-pairs`: the training instances of Google's script, to compare with it.
//!
//! Owns reading the text and writing the lines; the instances are the business of bert-data.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
};

use anyhow::Context;
use bert_data::{
    Tokenizer,
    compat::google::{GoogleSettings, create_training_instances},
};

use crate::{
    cli::GooglePairsArguments,
    table::{line, thousands},
};

/// Runs the command.
///
/// # Errors
///
/// What bert-data refuses; a text that cannot be read, or an output that cannot be written.
pub fn run(arguments: &GooglePairsArguments) -> anyhow::Result<()> {
    let settings = GoogleSettings {
        max_seq_length: arguments.max_seq_length,
        dupe_factor: arguments.dupe_factor,
        short_seq_prob: arguments.short_seq_prob,
        masked_lm_prob: arguments.masked_lm_prob,
        max_predictions_per_seq: arguments.max_predictions_per_seq,
        seed: arguments.seed,
    };
    let tokenizer = Tokenizer::from_vocab_file(&arguments.vocab, arguments.lowercase)?;
    let (input, output) = (&arguments.input, &arguments.output);
    let text = fs::read_to_string(input).with_context(|| format!("failed to read `{}`", input.display()))?;
    let instances = create_training_instances(&text, input, &tokenizer, &settings)?;

    let failed = || format!("failed to write `{}`", output.display());
    let mut file = BufWriter::new(File::create(output).with_context(failed)?);
    for instance in &instances {
        instance.write_json(&tokenizer, &mut file).with_context(failed)?;
    }
    file.flush().with_context(failed)?;
    line(format!("wrote {}: {} instances", output.display(), thousands(instances.len() as u64)));
    Ok(())
}
