//! The task `classify`: one class per text.
//!
//! Owns how validation rows choose the best checkpoint, and what is told of the test rows at the end. Rows, model and
//! formulas are the business of bert-data, bert-model and [`crate::class_metrics`].

mod evaluation;
mod predictions;

use std::{ops::Range, path::Path, sync::Arc};

use bert_coordinator::Coordinator;
use bert_data::{
    DataError, MicroBatch, Tokenizer,
    classify::{ClassifyData, EncodedRows, LabelSet, Table, TableColumns, read_table},
};
use bert_model::{
    ClassifierConfig, ClassifyBatch, ClassifyModel, Compute, GradientSink, ModelError, ParameterLayout,
    TokenBatch, hf,
};
use bert_random::{Key, Purpose};

use super::{Conclusion, Evaluation, FolderWriter, Task, TaskModel, pretrain::inverse};
use crate::{
    checkpoint::{BEST, manifest::Best},
    class_metrics::ClassMetrics,
    config::{ClassifySection, Config, SelectBy, TaskSection},
    control::BatchCounts,
    data_settings,
    error::TrainError,
    figures::SlotFigures,
    initial_weights, lineage,
    metrics::{ClassEvalLine, EvalLine, StepFigures},
    ranks::together,
    run_dir::RunDir,
    saver,
};

pub use predictions::{Prediction, write_predictions};

/// Fine-tuning on one rank.
pub struct Classify {
    section: ClassifySection,
    data: Arc<ClassifyData>,
    validation: EncodedRows,
    test: Option<EncodedRows>,
    labels: LabelSet,
    tokenizer: Tokenizer,
    fingerprint: String,
    /// Rows of an evaluation batch.
    num_rows: usize,
}

/// The section of a classifier.
///
/// # Errors
///
/// [`TrainError`] if the configuration asks for another task.
pub fn section_of(config: &Config) -> Result<&ClassifySection, TrainError> {
    match &config.task {
        TaskSection::Classify(section) => Ok(section),
        TaskSection::Pretrain => Err(TrainError::Usage("task.kind is not \"classify\"".to_string())),
    }
}

/// The classes: from the configuration, or from the training rows.
///
/// # Errors
///
/// [`TrainError::Data`] if they are not at least two different ones.
pub fn labels_of(section: &ClassifySection, train: &Table) -> Result<LabelSet, TrainError> {
    Ok(if section.labels.is_empty() {
        LabelSet::from_table(train)?
    } else {
        LabelSet::from_names(section.labels.clone())?
    })
}

/// The table of one of the files of the section.
///
/// # Errors
///
/// [`TrainError::Data`] names file, line or column.
pub fn table_of(section: &ClassifySection, path: &Path) -> Result<Table, TrainError> {
    let pair = &section.text_pair_column;
    let columns = TableColumns {
        text: section.text_column.clone(),
        text_pair: (!pair.is_empty()).then(|| pair.clone()),
        label: Some(section.label_column.clone()),
    };
    Ok(read_table(path, &columns)?)
}

impl Classify {
    fn open(config: &Config, is_first: bool) -> Result<Self, TrainError> {
        let section = section_of(config)?;
        let tokenizer = Tokenizer::from_vocab_file(&config.data.tokenizer, config.data.lowercase)?;
        let mut hasher = blake3::Hasher::new();
        let train = table_of(section, &section.train)?;
        let labels = labels_of(section, &train)?;
        let mut encode = |name: &str, table: &Table| -> Result<EncodedRows, TrainError> {
            hasher.update(table.blake3.as_bytes());
            let ids = labels.ids_of(table)?;
            let rows = EncodedRows::encode(&table.rows, ids, &tokenizer, config.data.max_seq_length)?;
            if is_first {
                describe(name, &rows, labels.names(), config.data.max_seq_length);
            }
            Ok(rows)
        };
        let rows = encode("training", &train)?;
        let validation = encode("validation", &table_of(section, &section.validation)?)?;
        let has_test = !section.test.as_os_str().is_empty();
        let test = has_test.then(|| encode("test", &table_of(section, &section.test)?)).transpose()?;
        let micro_batch_size = config.train.micro_batch_size;
        let data =
            ClassifyData::new(rows, config.run.seed, config.train.global_batch_size, micro_batch_size)?;
        Ok(Self {
            section: section.clone(),
            data: Arc::new(data),
            validation,
            test,
            labels,
            tokenizer,
            fingerprint: hasher.finalize().to_hex().to_string(),
            num_rows: micro_batch_size,
        })
    }

    fn line(
        &self,
        kind: &str,
        rows: &EncodedRows,
        step: u64,
        metrics: ClassMetrics,
        seconds: f64,
    ) -> ClassEvalLine {
        ClassEvalLine {
            kind: kind.to_string(),
            step,
            best_step: None,
            metrics,
            empty_rows: rows.counts().num_empty,
            truncated_rows: rows.counts().num_truncated,
            train_empty_rows: self.data.rows().counts().num_empty,
            train_truncated_rows: self.data.rows().counts().num_truncated,
            seconds,
        }
    }

    fn score(&self, metrics: &ClassMetrics) -> f64 {
        match self.section.select_by {
            SelectBy::Accuracy => metrics.accuracy,
            SelectBy::MacroF1 => metrics.macro_f1,
            SelectBy::Mcc => metrics.mcc,
            SelectBy::Loss => -metrics.loss,
        }
    }
}

/// The weights of a folder; a classifier that it lacks begins anew.
fn from_folder(folder: &Path, config: &ClassifierConfig, init_key: Key) -> Result<Vec<Vec<f32>>, TrainError> {
    let loaded = hf::load_folder_below_classifier(folder, &config.labels, init_key)?;
    lineage::check_same_model(folder, &loaded.model, &config.model)?;
    lineage::note_initialised(folder, &loaded.initialised);
    Ok(loaded.buckets)
}

/// Says how many rows there are, of which class, and what did not fit.
fn describe(name: &str, rows: &EncodedRows, labels: &[String], max_seq_length: usize) {
    let counts = rows.counts();
    let of_class = |id: usize| rows.labels().iter().filter(|label| **label as usize == id).count();
    let classes: Vec<String> =
        labels.iter().enumerate().map(|(id, label)| format!("{label}: {}", of_class(id))).collect();
    tracing::info!("{} {name} rows ({})", counts.num_rows, classes.join(", "));
    if counts.num_truncated > 0 {
        tracing::warn!(
            "{} {name} rows are longer than data.max_seq_length = {max_seq_length}: {} tokens at their ends are not read",
            counts.num_truncated,
            counts.num_cut_tokens
        );
    }
    if counts.num_empty > 0 {
        tracing::warn!("{} {name} rows are empty: they are read as [CLS] [SEP]", counts.num_empty);
    }
    for (id, label) in labels.iter().enumerate() {
        if name == "training" && of_class(id) == 0 {
            tracing::warn!("no training row has the label `{label}`: it cannot be learned");
        }
    }
}

impl Task for Classify {
    type Model = ClassifyModel;
    type Data = ClassifyData;

    fn prepare(coordinator: &Coordinator, config: &Config) -> Result<Self, TrainError> {
        let is_first = coordinator.world().is_first();
        together(coordinator, "labelled texts", || Self::open(config, is_first))
    }

    fn model(
        &self,
        coordinator: &Coordinator,
        config: &Config,
        compute: Compute,
        folder: Option<&Path>,
    ) -> Result<ClassifyModel, TrainError> {
        let model = data_settings::model_config(config, self.tokenizer.vocab_size());
        let classifier = ClassifierConfig {
            model,
            labels: self.labels.names().to_vec(),
            pooling: self.section.pooling,
            dropout_prob: self.section.classifier_dropout,
        };
        let key = Key::new(config.run.seed, Purpose::Init);
        let layout = ParameterLayout::for_classifier(&classifier.model, classifier.labels.len());
        let read = |folder: &Path| from_folder(folder, &classifier, key);
        let model = (&classifier.model, &layout);
        let mut buckets = initial_weights::load(coordinator, config, model, key, folder, read)?;
        together(coordinator, "model", || {
            let values = |_: &_, bucket_idx: usize| std::mem::take(&mut buckets[bucket_idx]);
            Ok(ClassifyModel::build(&classifier, compute, values)?)
        })
    }

    fn data(&self) -> &Arc<ClassifyData> {
        &self.data
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn epoch_at(&self, position: u64) -> Result<u64, DataError> {
        Ok(self.data.locate(position).epoch)
    }

    fn describe_row(&self, batch: &MicroBatch, row: usize) -> String {
        let label = batch.class_labels.get(row).and_then(|label| self.labels.names().get(*label as usize));
        let text = bert_data::describe_row(batch, row, &self.tokenizer);
        format!("label `{}` {text}", label.map_or("", String::as_str))
    }

    fn step_figures(&self, sums: &SlotFigures) -> StepFigures {
        StepFigures::Classify {
            loss: sums.rows.mean_loss(),
            accuracy: sums.rows.accuracy(),
            rows: sums.rows.count,
        }
    }

    fn evaluate(
        &self,
        coordinator: &Coordinator,
        model: &ClassifyModel,
        step: u64,
    ) -> Result<Option<Evaluation>, TrainError> {
        let (logits, seconds) = evaluation::logits(coordinator, model, &self.validation, self.num_rows)?;
        let metrics = ClassMetrics::new(&logits, self.validation.labels(), self.labels.names().len());
        let score = Some(self.score(&metrics));
        let line = EvalLine::Classify(self.line("eval", &self.validation, step, metrics, seconds));
        Ok(Some(Evaluation { line, score }))
    }

    fn conclude(
        &self,
        coordinator: &Coordinator,
        run_dir: &RunDir,
        model: &mut ClassifyModel,
        best: Option<&Best>,
        conclusion: Conclusion,
    ) -> Result<Vec<EvalLine>, TrainError> {
        let is_done = coordinator.world().is_first() && run_dir.predictions("validation").exists();
        let is_done = coordinator.broadcast_bytes("conclusion", 0, &[u8::from(is_done)])? == [1];
        let Some(best) = best.filter(|_| conclusion.has_trained || !is_done) else { return Ok(Vec::new()) };
        let folder = run_dir.checkpoints().join(BEST).join("model");
        let loaded = together(coordinator, "best checkpoint", || TaskModel::read_folder(&*model, &folder))?;
        for (idx, values) in loaded.into_iter().enumerate() {
            model.replace_bucket(idx, values);
        }
        let mut lines = Vec::new();
        let sets = [("test", self.test.as_ref()), ("validation", Some(&self.validation))];
        for (name, rows) in sets.into_iter().filter_map(|(name, rows)| Some((name, rows?))) {
            let (logits, seconds) = evaluation::logits(coordinator, model, rows, self.num_rows)?;
            let path = run_dir.predictions(name);
            let is_first = coordinator.world().is_first();
            together(coordinator, "predictions", || {
                if !is_first {
                    return Ok(());
                }
                write_predictions(&path, &predictions::of(&logits, Some(rows.labels()), self.labels.names()))
            })?;
            if name == "test" {
                let metrics = ClassMetrics::new(&logits, rows.labels(), self.labels.names().len());
                let line = self.line("test", rows, conclusion.last_step, metrics, seconds);
                lines.push(EvalLine::Classify(ClassEvalLine { best_step: Some(best.step), ..line }));
            }
        }
        Ok(lines)
    }
}

impl TaskModel for ClassifyModel {
    fn layout(&self) -> &ParameterLayout {
        self.layout()
    }

    fn read_bucket(&self, bucket_idx: usize, out: &mut [f32]) {
        self.read_bucket(bucket_idx, out);
    }

    fn with_range<R>(&self, bucket_idx: usize, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R {
        self.with_range(bucket_idx, range, read)
    }

    fn replace_bucket(&mut self, bucket_idx: usize, values: Vec<f32>) -> Vec<f32> {
        self.replace_bucket(bucket_idx, values)
    }

    fn train(
        &self,
        batch: &MicroBatch,
        dropout: Key,
        counts: BatchCounts,
        sink: &mut dyn GradientSink,
    ) -> Result<SlotFigures, ModelError> {
        let batch = ClassifyBatch { tokens: view(batch), labels: &batch.class_labels };
        Ok(self.train_micro_batch(&batch, dropout, inverse(counts.num_rows), sink)?.into())
    }

    fn folder_writer(&self) -> FolderWriter {
        let config = self.config().clone();
        Box::new(move |sink, folder, buckets| {
            let copy = |idx: usize, values: &mut [f32]| values.copy_from_slice(&buckets[idx]);
            hf::save_classifier_folder_to(sink, folder, &config, copy)
        })
    }

    fn read_folder(&self, folder: &Path) -> Result<Vec<Vec<f32>>, TrainError> {
        let (config, buckets) = hf::load_classifier_folder(folder)?;
        let layout = ParameterLayout::for_classifier(&config.model, config.labels.len());
        saver::check_layout(folder, &layout, self.layout())?;
        Ok(buckets)
    }
}

/// The tokens of a micro-batch as the model wants them: borrowed slices.
#[must_use]
pub fn view(batch: &MicroBatch) -> TokenBatch<'_> {
    TokenBatch {
        num_rows: batch.num_rows,
        row_len: batch.row_len,
        input_ids: &batch.input_ids,
        token_type_ids: &batch.token_type_ids,
        lengths: &batch.lengths,
    }
}
