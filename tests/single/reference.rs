//! Fifty steps of the whole program against PyTorch, from the same weights on the same batches.
//!
//! `golden/reference.json` holds the loss and the gradient norm of every step, computed by `golden/reference.py` with
//! torch and transformers; its head says how it is made again. Dropout is off, because no two systems draw it alike.

use std::{fs, path::Path, sync::Arc};

use bert_data::{Corpus, MicroBatch, PretrainData, Tokenizer, shards::Verify};
use bert_model::{BackendKind, PretrainModel, hf};
use bert_random::{Key, Purpose};
use bert_train::{config, data_settings};
use serde_json::{Value, json};

use crate::support::{Workspace, process::run};

const GOLDEN: &str = include_str!("../golden/reference.json");
/// Largest relative difference of a loss or a gradient norm.
const TOLERANCE: f64 = 1e-5;
const NUM_STEPS: u64 = 50;
const COMMON: [&str; 5] = [
    "model.hidden_dropout_prob=0.0",
    "model.attention_probs_dropout_prob=0.0",
    "model.hidden_size=64",
    "model.intermediate_size=96",
    "schedule.total_steps=50",
];

/// Runs the preset and returns the largest relative differences of losses and gradient norms to the golden file.
fn differences(preset: &str, changes: &[&str]) -> [f64; 2] {
    let workspace = Workspace::new();
    let overrides = [&COMMON, changes].concat();
    run(workspace.solo(preset, &overrides)).expect_code(0);
    let inputs = inputs(&workspace, &overrides);
    if let Some(folder) = std::env::var_os("BERT_TRAIN_REFERENCE_DUMP") {
        inputs.dump(Path::new(&folder));
    }
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    assert_eq!(
        golden["inputs"], inputs.hash,
        "weights or batches are not those of the golden file: make it again"
    );

    let metrics = workspace.metrics(preset, "train");
    assert_eq!(metrics.len() as u64, NUM_STEPS);
    let value = |line: &Value, key: &str| line[key].as_f64().unwrap();
    assert!(value(&metrics[49], "loss") < 0.95 * value(&metrics[0], "loss"), "the run learns");
    ["loss", "grad_norm"].map(|key| {
        let relative = |(step, line): (usize, &Value)| {
            let expected = golden[preset][key][step].as_f64().unwrap();
            (value(line, key) - expected).abs() / expected
        };
        metrics.iter().enumerate().map(relative).fold(0.0, f64::max)
    })
}

fn compare(preset: &str, changes: &[&str]) {
    let [loss, grad_norm] = differences(preset, changes);
    println!("{preset}: largest relative differences: loss {loss:.1e}, gradient norm {grad_norm:.1e}");
    assert!(loss < TOLERANCE && grad_norm < TOLERANCE);
}

/// What a step computes with: first weights and all batches.
struct Inputs {
    model: PretrainModel,
    steps: Vec<Vec<MicroBatch>>,
    hash: String,
}

fn inputs(workspace: &Workspace, overrides: &[&str]) -> Inputs {
    let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
    let config = config::load(&workspace.path("tiny.toml"), &overrides).unwrap();
    let tokenizer = Tokenizer::from_vocab_file(&workspace.path("vocab.txt"), config.data.lowercase).unwrap();
    let corpus = Corpus::open(&workspace.path("shards"), Verify::Hashes).unwrap();
    let data = PretrainData::new(Arc::new(corpus), data_settings::pretrain_data(&config)).unwrap();
    let slots = |step| (0..config.num_slots()).map(|slot| data.micro_batch(step, slot).unwrap()).collect();
    let steps: Vec<Vec<MicroBatch>> = (0..NUM_STEPS).map(slots).collect();
    let model_config = data_settings::model_config(&config, tokenizer.vocab_size());
    let key = Key::new(config.run.seed, Purpose::Init);
    let model = PretrainModel::init(&model_config, key, BackendKind::Flex).unwrap();

    let mut hasher = blake3::Hasher::new();
    for (idx, bucket) in model.layout().buckets.iter().enumerate() {
        let mut values = vec![0.0; bucket.num_elements];
        model.read_bucket(idx, &mut values);
        for value in values {
            hasher.update(&value.to_le_bytes());
        }
    }
    for batch in steps.iter().flatten() {
        hasher.update(as_json(batch).to_string().as_bytes());
    }
    Inputs { model, steps, hash: hasher.finalize().to_hex().to_string() }
}

impl Inputs {
    /// What the script reads: a model folder, the batches of each step, and their hash.
    fn dump(&self, folder: &Path) {
        fs::create_dir_all(folder.join("model")).unwrap();
        let read = |idx, out: &mut [f32]| self.model.read_bucket(idx, out);
        hf::save_folder(&folder.join("model"), self.model.config(), read).unwrap();
        let steps =
            self.steps.iter().map(|step| Value::Array(step.iter().map(as_json).collect()).to_string());
        fs::write(folder.join("batches.jsonl"), steps.collect::<Vec<_>>().join("\n")).unwrap();
        fs::write(folder.join("inputs.txt"), &self.hash).unwrap();
    }
}

fn as_json(batch: &MicroBatch) -> Value {
    json!({
        "row_len": batch.row_len, "input_ids": batch.input_ids, "token_type_ids": batch.token_type_ids,
        "lengths": batch.lengths, "mlm_positions": batch.mlm_positions, "mlm_labels": batch.mlm_labels,
        "nsp_labels": batch.nsp_labels,
    })
}

#[test]
fn adamw_of_pytorch_trains_the_same() {
    compare("torch", &["optimizer.bias_correction=true", "optimizer.epsilon=1e-8", "schedule.kind=linear"]);
}

#[test]
fn a_wrong_optimizer_is_noticed() {
    let pytorch = ["optimizer.bias_correction=true", "optimizer.epsilon=1e-8", "schedule.kind=linear"];
    for wrong in [
        "optimizer.weight_decay=0.0",
        "optimizer.epsilon=1e-6",
        "optimizer.betas=[0.9, 0.9989]",
        "optimizer.max_grad_norm=1.01",
        "schedule.kind=linear_google",
    ] {
        let [loss, grad_norm] = differences("torch", &[&pytorch[..], &[wrong]].concat());
        assert!(loss.max(grad_norm) > TOLERANCE, "{wrong}: {loss:.1e}, {grad_norm:.1e}");
    }
}

#[test]
fn adamw_of_google_trains_the_same() {
    let changes =
        ["optimizer.bias_correction=false", "optimizer.epsilon=1e-6", "schedule.kind=linear_google"];
    compare("bert", &changes);
}

#[test]
fn lamb_trains_the_same() {
    let changes = [
        "optimizer.kind=lamb",
        "optimizer.bias_correction=true",
        "optimizer.epsilon=1e-6",
        "schedule.kind=linear",
        "schedule.peak_learning_rate=1e-2",
    ];
    compare("lamb", &changes);
}
