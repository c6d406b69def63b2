//! Going on from other weights: other text, another task, and the record of where a model comes from.

use std::{fs, path::Path};

use bert_train::checkpoint::hash::{checkpoint_hash, model_hash};
use serde_json::Value;

use crate::support::{Workspace, process::run, text};

const SHORT: &str = "schedule.total_steps=4";

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A workspace with a pre-trained run `general` and another corpus.
fn pretrained() -> Workspace {
    let workspace = Workspace::labelled().with_config("tiny.toml");
    run(workspace.solo("general", &[SHORT])).expect_code(0);
    let other = text::corpus(90);
    let start = other.match_indices("\n\n").nth(59).unwrap().0 + 2;
    fs::write(workspace.path("domain.txt"), &other[start..]).unwrap();
    workspace
}

const DOMAIN: [&str; 4] =
    [SHORT, "data.sources=[{ path = \"domain.txt\" }]", "data.shards=domain", "data.validation_fraction=0.0"];

#[test]
fn general_domain_and_task_are_one_line_of_descent() {
    let workspace = pretrained();
    let general = workspace.checkpoint("general", 4);
    let init = format!("init.from={}", general.display());
    run(workspace.solo("domain", &[&DOMAIN[..], &[&init]].concat())).expect_code(0);

    // Fresh optimizer and schedule: the first step has the rate of step 1, and counts from 1.
    let first = workspace.metrics("domain", "train").remove(0);
    assert_eq!((&first["step"], first["learning_rate"].as_f64()), (&1.into(), Some(0.0)));
    // The rate is 0 in step 1, so the weights after it are those of the parent.
    let norm = |name: &str, idx: usize| workspace.metrics(name, "train").remove(idx)["param_norm"].clone();
    assert_eq!(norm("domain", 0), norm("general", 3));

    let ancestor = &json(&workspace.run_dir("domain").join("run.json"))["lineage"][0];
    assert_eq!(ancestor["path"], general.display().to_string());
    assert_eq!(ancestor["parameter_hash"], checkpoint_hash(&general, false).unwrap());
    assert_eq!(ancestor["step"], 4);
    let parent = json(&general.join("state.json"));
    assert_eq!(ancestor["corpus_fingerprint"], parent["corpus_fingerprint"]);
    assert!(parent.get("lineage").is_none(), "from scratch");

    // A run folder stands for its newest checkpoint; the task stage records the whole chain.
    let workspace = workspace.with_config("classify.toml");
    let init = format!("init.from={}", workspace.run_dir("domain").display());
    run(workspace.solo("task", &[SHORT, &init])).expect_code(0);
    let state = json(&workspace.checkpoint("task", 4).join("state.json"));
    let lineage = state["lineage"].as_array().unwrap();
    assert_eq!(lineage.len(), 2);
    assert_eq!(lineage[1], *ancestor);
    assert_eq!(
        lineage[0]["parameter_hash"],
        checkpoint_hash(&workspace.checkpoint("domain", 4), false).unwrap()
    );
    assert_eq!(json(&workspace.run_dir("task").join("run.json"))["lineage"], state["lineage"]);

    // A Hugging Face folder: the classifier of the task as the start of more pre-training, with new heads.
    let folder = workspace.path("folder");
    fs::rename(workspace.checkpoint("task", 4).join("model"), &folder).unwrap();
    let workspace = workspace.with_config("tiny.toml");
    let finished = run(workspace.solo("again", &[SHORT, "init.from=folder"])).expect_code(0);
    assert!(finished.stderr.contains("cls.predictions.bias"), "{}", finished.stderr);
    let ancestor = &json(&workspace.run_dir("again").join("run.json"))["lineage"][0];
    assert_eq!(ancestor["parameter_hash"], model_hash(&folder).unwrap());
    assert_eq!(ancestor["step"], Value::Null);
}

#[test]
fn a_run_goes_on_when_its_parent_is_gone() {
    let workspace = pretrained();
    let overrides = [&DOMAIN[1..], &["init.from=runs/general", "schedule.total_steps=6"]].concat();
    run(workspace.solo("straight", &overrides)).expect_code(0);
    run(workspace.solo("early", &[&overrides[..], &["checkpoint.every_steps=3"]].concat())).expect_code(0);
    // As if it had been killed after step 3.
    fs::remove_dir_all(workspace.checkpoint("early", 6)).unwrap();
    fs::remove_dir_all(workspace.run_dir("general")).unwrap();
    let finished = run(workspace.solo("early", &overrides)).expect_code(0);
    assert!(finished.stderr.contains("continuing after step 3"), "{}", finished.stderr);
    workspace.check_same("early", "straight", 6);
    let lineage = |name: &str| json(&workspace.checkpoint(name, 6).join("state.json"))["lineage"].clone();
    assert_eq!(lineage("early"), lineage("straight"));
    assert_eq!(lineage("early")[0]["path"], "runs/general");
}

#[test]
fn weights_that_do_not_fit_are_refused_by_the_key_that_differs() {
    let workspace = pretrained();
    let refused = |overrides: &[&str], exit_code, parts: &[&str]| {
        let overrides = [&[SHORT, "init.from=runs/general"], overrides].concat();
        run(workspace.solo("refused", &overrides)).expect_code(exit_code).expect_error(parts);
    };
    refused(&["model.hidden_size=64"], 3, &["model.hidden_size is 32, expected 64"]);
    refused(&["model.hidden_act=relu"], 3, &["model.hidden_act", "Gelu", "Relu"]);
    refused(&["model.layer_norm_eps=1e-5"], 3, &["model.layer_norm_eps"]);
    refused(&["model.num_attention_heads=4"], 3, &["model.num_attention_heads is 2, expected 4"]);
    let absent = ["init.from=nowhere"];
    run(workspace.solo("refused", &absent)).expect_code(2).expect_error(&["init.from", "`nowhere`"]);
    let weights = workspace.checkpoint("general", 4).join("model/model.safetensors");
    crate::support::flip_bit(&weights);
    refused(&[], 3, &["model.safetensors", "damaged"]);
}
