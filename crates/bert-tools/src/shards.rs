//! `bert shards build | verify`.
//!
//! Owns arguments and printing; shards are the business of bert-data.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bert_data::{
    Language, Tokenizer,
    shards::{self, BuildStatus, Manifest, ShardBuildRequest, WhenStale},
};
use bert_train::{config, data_settings::shard_request};

use crate::{
    build_progress::BuildScreen,
    cli::{LanguageName, ShardsBuildArguments, ShardsCommand},
    failure::ToolError,
    table::{line, percent, row, thousands},
};

/// Runs the command.
///
/// # Errors
///
/// What bert-data refuses: missing text, shards of other text, damaged files.
pub fn run(command: ShardsCommand) -> anyhow::Result<()> {
    match command {
        ShardsCommand::Build(arguments) => build(arguments),
        ShardsCommand::Verify(arguments) => {
            let manifest = shards::verify(&arguments.folder)?;
            line(format!("whole: {}", arguments.folder.display()));
            describe(&manifest);
            Ok(())
        }
    }
}

fn build(arguments: ShardsBuildArguments) -> anyhow::Result<()> {
    let mut request = match &arguments.config {
        Some(path) => request_of_config(path, &arguments.overrides)?,
        None => request_of_arguments(&arguments)?,
    };
    if arguments.rebuild {
        request.when_stale = WhenStale::Rebuild;
    }
    let was_ready = matches!(shards::status(&request)?, BuildStatus::Ready(_));
    let mut screen = BuildScreen::new();
    let manifest = shards::prepare_watched(&request, &mut |progress| screen.show(progress));
    let speed = screen.finish();
    let manifest = manifest?;
    line(format!("{}: {}", if was_ready { "already there" } else { "built" }, request.dir.display()));
    describe(&manifest);
    if let Some(speed) = speed {
        row("speed", speed);
    }
    Ok(())
}

fn request_of_config(path: &Path, overrides: &[String]) -> anyhow::Result<ShardBuildRequest> {
    let config = config::load(path, overrides)?;
    let tokenizer = Tokenizer::from_vocab_file(&config.data.tokenizer, config.data.lowercase)?;
    Ok(shard_request(&config, &Arc::new(tokenizer)))
}

fn request_of_arguments(arguments: &ShardsBuildArguments) -> anyhow::Result<ShardBuildRequest> {
    // clap has made sure of these three where there is no --config.
    let (Some(dir), Some(vocabulary), Some(language)) =
        (&arguments.output, &arguments.tokenizer, arguments.language)
    else {
        return Err(ToolError::Usage(
            "expected --config, or --input, --output, --tokenizer and --language".into(),
        )
        .into());
    };
    Ok(ShardBuildRequest {
        sources: arguments.input.iter().map(PathBuf::from).collect(),
        tokenizer: Arc::new(Tokenizer::from_vocab_file(vocabulary, arguments.lowercase)?),
        language: match language {
            LanguageName::Zh => Language::Zh,
            LanguageName::En => Language::En,
        },
        lexicon: arguments.lexicon.clone(),
        dir: dir.clone(),
        shard_text_bytes: arguments.shard_mib << 20,
        when_stale: WhenStale::Refuse,
        strict: arguments.strict,
    })
}

fn describe(manifest: &Manifest) {
    let counts = &manifest.counts;
    let share = |count: u64| percent(count as f64 / counts.num_tokens.max(1) as f64);
    row("shards", thousands(manifest.shards.len() as u64));
    row("documents", thousands(counts.num_documents));
    row("sentences", thousands(counts.num_sentences));
    row("tokens", thousands(counts.num_tokens));
    row("[UNK]", format!("{} ({})", thousands(counts.num_unknown), share(counts.num_unknown)));
    if let Some((path, byte)) = manifest.first_invalid() {
        let num_lines = thousands(counts.num_invalid_lines);
        row("not UTF-8", format!("{num_lines} lines, bytes replaced; the first at byte {byte} of {path}"));
    }
    row("fingerprint", &manifest.fingerprint);
}
