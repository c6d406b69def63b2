//! Folders of a `BertForSequenceClassification`, and a BERT from any folder below a new classifier.
//!
//! Beside Hugging Face's keys, `classifier_pooling` keeps what the classifier reads; a file without it is one of
//! Hugging Face's own, which reads the pooler.

use std::path::Path;

use bert_random::Key;
use serde_json::{Map, Value, json};

use super::{
    CONFIG_FILE, ConfigFile, FileSink, HfError, PlainFiles, Source, TENSOR_FILE,
    assign::{self, Assigned, Rules},
    safetensors_file,
    tensor_index::TensorIndex,
};
use crate::{
    classify::ClassifierConfig, config::ModelConfig, init::initial_parameter, layout::ParameterLayout,
    pooling::Pooling,
};

/// The key of ours in `config.json`; `transformers` leaves it alone.
const POOLING_KEY: &str = "classifier_pooling";
const PROBLEM: &str = "single_label_classification";

/// Writes `config.json` and `model.safetensors` of a classifier into an existing folder and syncs both files.
///
/// `read_bucket` is called once per bucket, in layout order, with a buffer of the bucket's length to fill.
///
/// # Errors
///
/// [`HfError::Config`] if the configuration is not valid, [`HfError::Io`] if a file cannot be written.
pub fn save_classifier_folder(
    folder: &Path,
    config: &ClassifierConfig,
    read_bucket: impl FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    save_classifier_folder_to(&mut PlainFiles, folder, config, read_bucket)
}

/// As [`save_classifier_folder`], with files that `sink` makes.
///
/// # Errors
///
/// As [`save_classifier_folder`].
pub fn save_classifier_folder_to(
    sink: &mut dyn FileSink,
    folder: &Path,
    config: &ClassifierConfig,
    mut read_bucket: impl FnMut(usize, &mut [f32]),
) -> Result<(), HfError> {
    let path = folder.join(CONFIG_FILE);
    config.validate().map_err(|source| HfError::Config { path: path.clone(), source })?;
    let ids: Map<String, Value> =
        config.labels.iter().enumerate().map(|(id, label)| (id.to_string(), label.as_str().into())).collect();
    let labels: Map<String, Value> =
        config.labels.iter().enumerate().map(|(id, label)| (label.clone(), id.into())).collect();
    let more = json!({
        "num_labels": config.labels.len(),
        "id2label": ids,
        "label2id": labels,
        "problem_type": PROBLEM,
        "classifier_dropout": config.dropout_prob,
        POOLING_KEY: config.pooling,
    });
    let more = more.as_object().cloned().unwrap_or_default();
    let file = ConfigFile::of_model(&path, &config.model)?;
    file.for_architecture("BertForSequenceClassification", &more).write(&path, sink)?;
    let layout = ParameterLayout::for_classifier(&config.model, config.labels.len());
    safetensors_file::write(&folder.join(TENSOR_FILE), &layout, &mut read_bucket, sink)
}

/// Reads the configuration of a classifier only.
///
/// # Errors
///
/// As [`super::load_config`]; [`HfError::Unsupported`] if the file describes no classifier of one class per row.
pub fn load_classifier_config(folder: &Path) -> Result<ClassifierConfig, HfError> {
    let path = folder.join(CONFIG_FILE);
    let file = ConfigFile::read(&path)?;
    let all = file.all();
    let unsupported = |key: &'static str, expected: &str, got: String| HfError::Unsupported {
        path: path.clone(),
        key,
        expected: expected.to_owned(),
        got,
    };
    let architectures = all.get("architectures").cloned().unwrap_or_default();
    if !architectures.to_string().contains("ForSequenceClassification") {
        let expected = "a model with a classifier (BertForSequenceClassification)";
        return Err(unsupported("architectures", expected, architectures.to_string()));
    }
    if let Some(problem) = all.get("problem_type").filter(|problem| !problem.is_null() && *problem != PROBLEM)
    {
        return Err(unsupported("problem_type", PROBLEM, problem.to_string()));
    }
    let pooling = match all.get(POOLING_KEY) {
        None => Pooling::Pooler,
        Some(name) => serde_json::from_value(name.clone())
            .map_err(|source| HfError::Json { path: path.clone(), source })?,
    };
    let labels = labels_of(all).ok_or_else(|| {
        let text = |key: &str| all.get(key).map_or_else(|| "nothing".to_owned(), Value::to_string);
        let got = format!("{} with num_labels = {}", text("id2label"), text("num_labels"));
        unsupported("id2label", "a name for each of the ids 0, 1, .. below num_labels", got)
    })?;
    let model = file.model().clone();
    let dropout_prob =
        all.get("classifier_dropout").and_then(Value::as_f64).unwrap_or(model.hidden_dropout_prob);
    let config = ClassifierConfig { model, labels, pooling, dropout_prob };
    config.validate().map_err(|source| HfError::Config { path, source })?;
    Ok(config)
}

/// The names of the classes by id; as `transformers`, `LABEL_0` and so on where only their number is given.
///
/// Older files of `transformers` may hold the right `num_labels` beside two generated names that were never
/// replaced; then the number counts. Names that somebody gave and another number contradict each other: `None`.
fn labels_of(all: &Map<String, Value>) -> Option<Vec<String>> {
    let generated = |num_labels: u64| -> Option<Vec<String>> {
        (num_labels < 1 << 20).then(|| (0..num_labels).map(|id| format!("LABEL_{id}")).collect())
    };
    let num_labels = all.get("num_labels").map(Value::as_u64);
    let Some(names) = all.get("id2label") else { return generated(num_labels.unwrap_or(Some(2))?) };
    let names = names.as_object()?;
    let by_id = (0..names.len()).map(|id| Some(names.get(&id.to_string())?.as_str()?.to_owned()));
    let by_id: Vec<String> = by_id.collect::<Option<_>>()?;
    let Some(num_labels) = num_labels else { return Some(by_id) };
    let (num_labels, num_names) = (num_labels?, by_id.len() as u64);
    if num_labels == num_names {
        return Some(by_id);
    }
    let is_generated = generated(num_names).is_some_and(|names| names == by_id);
    if is_generated { generated(num_labels) } else { None }
}

/// Reads a folder of a classifier: the configuration and the values of every bucket, in layout order.
///
/// # Errors
///
/// As [`super::load_folder`] and [`load_classifier_config`].
pub fn load_classifier_folder(folder: &Path) -> Result<(ClassifierConfig, Vec<Vec<f32>>), HfError> {
    let config = load_classifier_config(folder)?;
    let layout = ParameterLayout::for_classifier(&config.model, config.labels.len());
    let rules = Rules {
        may_be_missing: &|_| false,
        may_be_unexpected: &|_| false,
        initial: &|spec| vec![0.0; spec.num_elements],
    };
    Ok((config, read(folder, &layout, &rules, &is_pretraining_head)?.buckets))
}

/// A BERT below a new classifier.
#[derive(Clone, Debug)]
pub struct ClassifierStart {
    /// What the folder says of the BERT.
    pub model: ModelConfig,
    /// The values of every bucket, in layout order.
    pub buckets: Vec<Vec<f32>>,
    /// Names of the parameters that the folder lacked, ascending.
    pub initialised: Vec<String>,
}

/// Reads a BERT from any folder as the start of a classifier with the given labels.
///
/// The heads of pre-training are passed over. Pooler and classifier start from initial values where the folder has
/// none; a stored classifier is taken over if its labels are these, in this order, and is initialised otherwise.
///
/// # Errors
///
/// As [`super::load_folder`].
pub fn load_folder_below_classifier(
    folder: &Path,
    labels: &[String],
    init_key: Key,
) -> Result<ClassifierStart, HfError> {
    let model = ConfigFile::read(&folder.join(CONFIG_FILE))?.model().clone();
    let has_same_labels = load_classifier_config(folder).is_ok_and(|stored| stored.labels == labels);
    let is_passed_over =
        |name: &str| is_pretraining_head(name) || (name.starts_with("classifier.") && !has_same_labels);
    let layout = ParameterLayout::for_classifier(&model, labels.len());
    let rules = Rules {
        may_be_missing: &|name| name.starts_with("classifier.") || name.starts_with("bert.pooler."),
        may_be_unexpected: &|_| false,
        initial: &|spec| initial_parameter(&model, spec, init_key),
    };
    let Assigned { buckets, initialised, .. } = read(folder, &layout, &rules, &is_passed_over)?;
    Ok(ClassifierStart { model, buckets, initialised })
}

fn is_pretraining_head(stored_name: &str) -> bool {
    stored_name.starts_with("cls.") || stored_name.starts_with("cls/")
}

/// Reads the tensors of a folder as if those that are passed over were not there.
fn read(
    folder: &Path,
    layout: &ParameterLayout,
    rules: &Rules<'_>,
    is_passed_over: &dyn Fn(&str) -> bool,
) -> Result<Assigned, HfError> {
    let mut index = TensorIndex::open(&Source::folder(folder)?.tensors)?;
    index.tensors.retain(|tensor| !is_passed_over(&tensor.name));
    assign::read(&index, layout, rules)
}

#[cfg(test)]
mod tests {
    use bert_random::Purpose;

    use super::*;
    use crate::{
        hf::{Allowed, load, save_folder},
        init::initial_bucket,
        test_support::tiny_config,
    };

    fn config() -> ClassifierConfig {
        ClassifierConfig {
            model: tiny_config(),
            labels: ["cold", "warm", "hot"].map(String::from).to_vec(),
            pooling: Pooling::FirstLastMean,
            dropout_prob: 0.25,
        }
    }

    fn initial(layout: &ParameterLayout, seed: u64) -> Vec<Vec<f32>> {
        let key = Key::new(seed, Purpose::Init);
        layout.buckets.iter().map(|bucket| initial_bucket(&tiny_config(), bucket, key)).collect()
    }

    fn saved_classifier() -> (tempfile::TempDir, Vec<Vec<f32>>) {
        let folder = tempfile::tempdir().unwrap();
        let buckets = initial(&ParameterLayout::for_classifier(&tiny_config(), 3), 3);
        let read = |idx: usize, out: &mut [f32]| out.copy_from_slice(&buckets[idx]);
        save_classifier_folder(folder.path(), &config(), read).unwrap();
        (folder, buckets)
    }

    fn saved_pretraining() -> (tempfile::TempDir, Vec<Vec<f32>>) {
        let folder = tempfile::tempdir().unwrap();
        let buckets = initial(&ParameterLayout::new(&tiny_config()), 4);
        save_folder(folder.path(), &tiny_config(), |idx, out| out.copy_from_slice(&buckets[idx])).unwrap();
        (folder, buckets)
    }

    #[test]
    fn a_classifier_survives_the_round_trip() {
        let (folder, buckets) = saved_classifier();
        assert_eq!(load_classifier_folder(folder.path()).unwrap(), (config(), buckets));
        let text = std::fs::read_to_string(folder.path().join(CONFIG_FILE)).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["architectures"], json!(["BertForSequenceClassification"]));
        assert_eq!((&json["num_labels"], &json["id2label"]["2"]), (&json!(3), &json!("hot")));
        assert_eq!(json["label2id"]["warm"], 1);
    }

    #[test]
    fn a_pretrained_bert_starts_a_classifier_without_its_heads() {
        let (folder, stored) = saved_pretraining();
        let labels = config().labels;
        let loaded =
            load_folder_below_classifier(folder.path(), &labels, Key::new(9, Purpose::Init)).unwrap();
        assert_eq!(loaded.initialised, ["classifier.bias", "classifier.weight"]);
        assert_eq!(loaded.buckets[1..], stored[1..]);
        // The pooler stands first in both buckets of heads: [12, 12] and [12].
        assert_eq!(loaded.buckets[0][..156], stored[0][..156]);
        assert_eq!(loaded.buckets[0].len(), 156 + 3 * 12 + 3);
    }

    #[test]
    fn a_stored_classifier_is_taken_over_for_the_same_labels_only() {
        let (folder, stored) = saved_classifier();
        let key = Key::new(9, Purpose::Init);
        let same = load_folder_below_classifier(folder.path(), &config().labels, key).unwrap();
        assert_eq!((same.initialised.len(), &same.buckets), (0, &stored));
        let labels = ["hot", "cold", "warm"].map(String::from);
        let other = load_folder_below_classifier(folder.path(), &labels, key).unwrap();
        assert_eq!(other.initialised, ["classifier.bias", "classifier.weight"]);
        assert_ne!(other.buckets[0], stored[0]);
    }

    #[test]
    fn pre_training_goes_on_from_a_classifier() {
        let (folder, stored) = saved_classifier();
        let key = Key::new(9, Purpose::Init);
        let allowed = Allowed {
            missing: &|name| name.starts_with("cls."),
            unexpected: &|name| name.starts_with("classifier."),
            init_key: Some(key),
        };
        let loaded = load(&Source::folder(folder.path()).unwrap(), &allowed).unwrap();
        assert_eq!(loaded.buckets[1..], stored[1..]);
        assert_eq!(loaded.initialised.len(), 7);
    }

    #[test]
    fn a_folder_without_a_classifier_is_refused_by_name() {
        let (folder, _) = saved_pretraining();
        let message = load_classifier_folder(folder.path()).unwrap_err().to_string();
        assert!(message.contains("architectures") && message.contains("BertForPreTraining"), "{message}");
    }

    #[test]
    fn labels_without_names_are_those_of_transformers() {
        let object = |value: Value| value.as_object().cloned().unwrap();
        assert_eq!(labels_of(&object(json!({"num_labels": 3}))).unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2"]);
        assert_eq!(labels_of(&object(json!({}))).unwrap().len(), 2);
        assert_eq!(labels_of(&object(json!({"id2label": {"0": "a", "2": "b"}}))), None);
        assert_eq!(labels_of(&object(json!({"num_labels": 99999999999u64}))), None);
        let old = json!({"num_labels": 4, "id2label": {"0": "LABEL_0", "1": "LABEL_1"}});
        assert_eq!(labels_of(&object(old)).unwrap(), ["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"]);
        let named = |num_labels: u64| json!({"num_labels": num_labels, "id2label": {"0": "no", "1": "yes"}});
        assert_eq!(labels_of(&object(named(2))).unwrap(), ["no", "yes"]);
        assert_eq!(labels_of(&object(named(4))), None);
    }
}
