//! Round trips through a folder, and refusals that say what is wrong.

use std::{fs, path::Path};

use bert_random::{Key, Purpose};
use safetensors::{SafeTensors, tensor::TensorView};

use super::*;
use crate::{config::HiddenAct, init::initial_bucket, test_support::tiny_config};

fn buckets(config: &ModelConfig) -> Vec<Vec<f32>> {
    let key = Key::new(3, Purpose::Init);
    let layout = ParameterLayout::new(config);
    let mut buckets: Vec<_> = layout.buckets.iter().map(|b| initial_bucket(config, b, key)).collect();
    // Every bucket gets values that only a bit-exact copy preserves.
    buckets.iter_mut().for_each(|bucket| bucket[1] = f32::from_bits(0x8000_0001));
    buckets
}

fn saved(config: &ModelConfig) -> (tempfile::TempDir, Vec<Vec<f32>>) {
    let folder = tempfile::tempdir().unwrap();
    let buckets = buckets(config);
    save_folder(folder.path(), config, |idx, out| out.copy_from_slice(&buckets[idx])).unwrap();
    (folder, buckets)
}

fn bits(buckets: &[Vec<f32>]) -> Vec<u32> {
    buckets.iter().flatten().map(|value| value.to_bits()).collect()
}

/// Rewrites the tensors of a folder: each is kept, renamed, reshaped or dropped by `change`.
fn rewrite(folder: &Path, change: impl Fn(&str, &TensorView<'_>) -> Vec<(String, Vec<usize>)>) {
    let path = folder.join(TENSOR_FILE);
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensors = file.tensors();
    let changed: Vec<_> = tensors
        .iter()
        .flat_map(|(name, view)| change(name, view).into_iter().map(move |(name, shape)| (name, shape, view)))
        .map(|(name, shape, view)| (name, TensorView::new(view.dtype(), shape, view.data()).unwrap()))
        .collect();
    fs::write(&path, safetensors::serialize(changed, None).unwrap()).unwrap();
}

fn keep(name: &str, view: &TensorView<'_>) -> (String, Vec<usize>) {
    (name.to_owned(), view.shape().to_vec())
}

#[track_caller]
fn refused(folder: &Path) -> String {
    let error = load_folder(folder).unwrap_err();
    let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}").replace(folder.to_str().unwrap(), "FOLDER")
}

#[test]
fn round_trip_is_bit_equal() {
    for hidden_act in [HiddenAct::Gelu, HiddenAct::GeluTanh, HiddenAct::Relu] {
        let config = ModelConfig { hidden_act, ..tiny_config() };
        let (folder, buckets) = saved(&config);
        let (loaded_config, loaded) = load_folder(folder.path()).unwrap();
        assert_eq!(loaded_config, config);
        assert_eq!(bits(&loaded), bits(&buckets));
    }
}

#[test]
fn equal_parameters_give_equal_bytes() {
    let [a, b] = [saved(&tiny_config()), saved(&tiny_config())];
    for name in [CONFIG_FILE, TENSOR_FILE] {
        assert_eq!(fs::read(a.0.path().join(name)).unwrap(), fs::read(b.0.path().join(name)).unwrap());
    }
}

#[test]
fn the_safetensors_crate_reads_what_was_written() {
    let (folder, buckets) = saved(&tiny_config());
    let bytes = fs::read(folder.path().join(TENSOR_FILE)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let layout = ParameterLayout::new(&tiny_config());
    assert_eq!(file.len(), layout.by_name().len());
    for (bucket_idx, spec) in layout.by_name() {
        let view = file.tensor(&spec.name).unwrap();
        let stored: Vec<_> =
            view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        assert_eq!(view.shape(), spec.shape);
        assert_eq!(stored, buckets[bucket_idx][spec.range()]);
    }
    let (_, metadata) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(metadata.metadata().as_ref().unwrap()["format"], "pt");
}

#[test]
fn config_says_what_transformers_wants_to_know() {
    let config = ModelConfig { hidden_act: HiddenAct::GeluTanh, ..tiny_config() };
    let (folder, _) = saved(&config);
    let text = fs::read_to_string(folder.path().join(CONFIG_FILE)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["architectures"], serde_json::json!(["BertForPreTraining"]));
    assert_eq!(value["model_type"], "bert");
    assert_eq!(value["hidden_act"], "gelu_new");
    assert_eq!(value["num_hidden_layers"], 2);
}

#[test]
fn keys_about_other_things_are_left_alone_and_other_networks_refused() {
    let (folder, _) = saved(&tiny_config());
    let path = folder.path().join(CONFIG_FILE);
    let mut value: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    value["pad_token_id"] = 0.into();
    fs::write(&path, value.to_string()).unwrap();
    load_folder(folder.path()).unwrap();

    value["position_embedding_type"] = "relative_key".into();
    fs::write(&path, value.to_string()).unwrap();
    assert_eq!(
        refused(folder.path()),
        "`FOLDER/config.json`: position_embedding_type: expected absolute, got relative_key"
    );
}

#[test]
fn old_names_ties_and_buffers_are_accepted() {
    let (folder, buckets) = saved(&tiny_config());
    rewrite(folder.path(), |name, view| {
        let old = name
            .trim_start_matches("bert.")
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        let shape = view.shape().to_vec();
        match name {
            "bert.embeddings.word_embeddings.weight" => {
                vec![(old, shape.clone()), ("cls.predictions.decoder.weight".into(), shape)]
            }
            "bert.pooler.dense.bias" => vec![(old, shape.clone()), ("embeddings.position_ids".into(), shape)],
            _ => vec![(old, shape)],
        }
    });
    assert_eq!(bits(&load_folder(folder.path()).unwrap().1), bits(&buckets));
}

#[test]
fn an_untied_decoder_is_refused() {
    let (folder, _) = saved(&tiny_config());
    let path = folder.path().join(TENSOR_FILE);
    let bytes = fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = file.tensors();
    let others = vec![0x3f; 4 * 37];
    tensors.push((
        "cls.predictions.decoder.bias".into(),
        TensorView::new(safetensors::Dtype::F32, vec![37], &others).unwrap(),
    ));
    fs::write(&path, safetensors::serialize(tensors, None).unwrap()).unwrap();
    assert_eq!(
        refused(folder.path()),
        "`FOLDER/model.safetensors`: `cls.predictions.decoder.bias` differs from `cls.predictions.bias`: \
         expected a tied decoder, got one of its own"
    );
}

#[test]
fn every_tensor_that_does_not_fit_is_listed() {
    let (folder, _) = saved(&tiny_config());
    rewrite(folder.path(), |name, view| match name {
        "bert.pooler.dense.weight" => vec![],
        "cls.seq_relationship.bias" => vec![keep("cls.other.bias", view)],
        "cls.seq_relationship.weight" => vec![(name.to_owned(), vec![12, 2])],
        _ => vec![keep(name, view)],
    });
    assert_eq!(
        refused(folder.path()),
        "`FOLDER/model.safetensors` does not fit its config.json:\n  \
         missing (2): bert.pooler.dense.weight, cls.seq_relationship.bias\n  \
         unexpected (1): cls.other.bias\n  \
         different (1): cls.seq_relationship.weight (expected F32 [2, 12], got F32 [12, 2])"
    );
}

#[test]
fn missing_heads_start_from_initial_values_if_allowed() {
    let (folder, buckets) = saved(&tiny_config());
    rewrite(folder.path(), |name, view| match name {
        "cls.seq_relationship.weight" | "cls.seq_relationship.bias" => vec![],
        _ => vec![keep(name, view)],
    });
    let key = Key::new(8, Purpose::Init);
    let allow = |missing: &dyn Fn(&str) -> bool| {
        let source = Source::folder(folder.path()).unwrap();
        load(&source, &Allowed { missing, unexpected: &|_| false, init_key: Some(key) })
    };
    let LoadedModel { buckets: loaded, initialised, .. } = allow(&|name| name.starts_with("cls.")).unwrap();
    assert_eq!(initialised, ["cls.seq_relationship.bias", "cls.seq_relationship.weight"]);
    assert_eq!(bits(&loaded[1..]), bits(&buckets[1..]));
    let layout = ParameterLayout::new(&tiny_config());
    let fresh = initial_bucket(&tiny_config(), &layout.buckets[0], key);
    for spec in &layout.buckets[0].parameters {
        let expected = if spec.name.contains("seq_relationship") { &fresh } else { &buckets[0] };
        assert_eq!(loaded[0][spec.range()], expected[spec.range()], "{}", spec.name);
    }

    let error = allow(&|name| name.contains("pooler")).unwrap_err();
    assert!(error.to_string().contains("missing (2): cls.seq_relationship.bias"), "{error}");
}

#[test]
fn a_cut_or_damaged_file_is_refused() {
    let (folder, _) = saved(&tiny_config());
    let path = folder.path().join(TENSOR_FILE);
    let whole = fs::read(&path).unwrap();
    let check = |bytes: &[u8], expected: &str| {
        fs::write(&path, bytes).unwrap();
        let message = refused(folder.path());
        assert!(message.contains(expected), "{message}");
    };
    check(&whole[..whole.len() - 1], "the file was cut or appended to");
    check(&[&whole[..], &[0]].concat(), "the file was cut or appended to");
    check(&whole[..100], "invalid header length");
    check(&whole[..5], "header too small");
    check(&[&u64::MAX.to_le_bytes()[..], &whole[8..]].concat(), "header too large");
    check(&[&whole[..8], &b"x".repeat(whole.len() - 8)].concat(), "JSON error");

    // A header that promises more memory than any file of this length can fill.
    let header = br#"{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,4]}}        "#;
    let huge = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    fs::write(&path, huge).unwrap();
    assert!(refused(folder.path()).contains("damaged or not a safetensors file"));

    fs::remove_file(&path).unwrap();
    assert_eq!(
        refused(folder.path()),
        "`FOLDER` holds no weights: expected model.safetensors or pytorch_model.bin, got neither"
    );
}

#[test]
fn hash_input_is_in_name_order() {
    let config = tiny_config();
    let (layout, buckets) = (ParameterLayout::new(&config), buckets(&config));
    let mut names = Vec::new();
    let mut num_bytes = 0;
    parameter_hash_input(&layout, &buckets, |name, shape, bytes| {
        assert_eq!(bytes.len(), 4 * shape.iter().product::<usize>());
        num_bytes += bytes.len();
        names.push(name.to_owned());
    });
    assert!(names.is_sorted());
    assert_eq!(num_bytes, 4 * config.num_parameters());
}
