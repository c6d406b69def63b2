//! Pre-training that begins where another model stands: `init.from`.

use std::fs;

use bert_model::{grow_vocabulary, hf};

use crate::support::{Workspace, process::run};

/// First loss of a run.
fn first_loss(workspace: &Workspace, name: &str) -> f64 {
    workspace.metrics(name, "train")[0]["loss"].as_f64().unwrap()
}

#[test]
fn a_model_with_more_words_continues() {
    let workspace = Workspace::new();
    run(workspace.solo("first", &["schedule.total_steps=60", "schedule.peak_learning_rate=4e-3"]))
        .expect_code(0);
    let model = workspace.checkpoint("first", 60).join("model");
    let source = hf::Source::folder(&model).unwrap();
    let loaded = hf::load(&source, &hf::Allowed::NOTHING).unwrap();

    // The decoder is the word table: after training it is stored once, and both uses of it were read back.
    let bytes = fs::read(model.join(hf::TENSOR_FILE)).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tables =
        file.names().into_iter().filter(|name| name.contains("word_embeddings") || name.contains("decoder"));
    assert_eq!(tables.collect::<Vec<_>>(), ["bert.embeddings.word_embeddings.weight"]);

    // Two more words: an English one of three pieces that the corpus has, and one of nothing that is known.
    let vocabulary = fs::read_to_string(workspace.path("vocab.txt")).unwrap();
    let id = |token: &str| vocabulary.lines().position(|line| line == token).unwrap() as u32;
    let pieces = [vec![id("t"), id("##h"), id("##e")], vec![]];
    let (grown, buckets) = grow_vocabulary(loaded.config.model(), &loaded.buckets, &pieces);
    let folder = workspace.path("grown");
    fs::create_dir(&folder).unwrap();
    let config = loaded.config.for_pretraining(grown.vocab_size);
    hf::save_folder_as(&folder, &config, |idx, out| out.copy_from_slice(&buckets[idx])).unwrap();
    fs::write(workspace.path("grown.txt"), format!("{vocabulary}the\nzzzz\n")).unwrap();

    let other = ["data.tokenizer=grown.txt", "data.shards=other", "schedule.total_steps=5"];
    run(workspace.solo("fresh", &other)).expect_code(0);
    run(workspace.solo("continued", &[&other[..], &["init.from=grown"]].concat())).expect_code(0);
    let (fresh, continued) = (first_loss(&workspace, "fresh"), first_loss(&workspace, "continued"));
    assert!(continued < fresh - 0.5, "the first loss is {continued}, from scratch {fresh}");
    let saved = hf::load_config(&workspace.checkpoint("continued", 5).join("model")).unwrap();
    assert_eq!(saved.vocab_size, grown.vocab_size);

    // A model without the new words does not fit the larger vocabulary.
    let mismatched = [&other[..], &["init.from=runs/first/checkpoints/latest"]].concat();
    let finished = run(workspace.solo("mismatched", &mismatched));
    assert_eq!(finished.exit_code, Some(3), "{}", finished.stderr);
    finished.expect_error(&["size of the vocabulary"]);
}
