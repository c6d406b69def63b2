//! The task `pretrain`: masked language model with a sentence objective.
//!
//! Owns the joining of pre-training data, model and held-out evaluation; their work is done elsewhere.

use std::{ops::Range, path::Path, sync::Arc};

use bert_coordinator::Coordinator;
use bert_data::{DataError, MicroBatch, PretrainData, Tokenizer, describe_row};
use bert_model::{
    Compute, GradientSink, LossScale, ModelConfig, ModelError, ParameterLayout, PretrainBatch, PretrainModel,
    hf::{self, Allowed, Source},
};
use bert_random::{Key, Purpose};

use super::{Conclusion, Evaluation, FolderWriter, Task, TaskModel};
use crate::{
    checkpoint::manifest::Best,
    config::Config,
    control::BatchCounts,
    data_settings,
    error::TrainError,
    eval::HeldOut,
    figures::SlotFigures,
    initial_weights, lineage,
    metrics::{EvalLine, StepFigures},
    ranks::together,
    run_dir::RunDir,
    saver,
    setup::{PreparedData, prepare_data, prepare_evaluation},
};

/// Pre-training on one rank.
pub struct Pretrain {
    data: PreparedData,
    held_out: HeldOut,
}

impl Task for Pretrain {
    type Model = PretrainModel;
    type Data = PretrainData;

    fn prepare(coordinator: &Coordinator, config: &Config) -> Result<Self, TrainError> {
        let data = prepare_data(coordinator, config)?;
        let held_out = prepare_evaluation(coordinator, config, &data.data)?;
        Ok(Self { data, held_out })
    }

    fn model(
        &self,
        coordinator: &Coordinator,
        config: &Config,
        compute: Compute,
        folder: Option<&Path>,
    ) -> Result<PretrainModel, TrainError> {
        let model_config = data_settings::model_config(config, self.data.tokenizer.vocab_size());
        let key = Key::new(config.run.seed, Purpose::Init);
        let layout = ParameterLayout::new(&model_config);
        let read = |folder: &Path| from_folder(folder, &model_config, key);
        let model = (&model_config, &layout);
        let mut buckets = initial_weights::load(coordinator, config, model, key, folder, read)?;
        together(coordinator, "model", || {
            let values = |_: &_, bucket_idx: usize| std::mem::take(&mut buckets[bucket_idx]);
            Ok(PretrainModel::build(&model_config, compute, values)?)
        })
    }

    fn data(&self) -> &Arc<PretrainData> {
        &self.data.data
    }

    fn tokenizer(&self) -> &Tokenizer {
        &self.data.tokenizer
    }

    fn fingerprint(&self) -> &str {
        &self.data.corpus_fingerprint
    }

    fn epoch_at(&self, position: u64) -> Result<u64, DataError> {
        Ok(self.data.data.locate(position)?.epoch)
    }

    fn describe_row(&self, batch: &MicroBatch, row: usize) -> String {
        describe_row(batch, row, &self.data.tokenizer)
    }

    fn step_figures(&self, sums: &SlotFigures) -> StepFigures {
        let (mlm_loss, nsp_loss) = (sums.tokens.mean_loss(), sums.rows.mean_loss());
        StepFigures::Pretrain {
            loss: mlm_loss + nsp_loss,
            mlm_loss,
            nsp_loss,
            mlm_accuracy: sums.tokens.accuracy(),
            nsp_accuracy: sums.rows.accuracy(),
            masked_tokens: sums.tokens.count,
        }
    }

    fn evaluate(
        &self,
        coordinator: &Coordinator,
        model: &PretrainModel,
        step: u64,
    ) -> Result<Option<Evaluation>, TrainError> {
        let line = self.held_out.evaluate(coordinator, model, step)?;
        Ok(line.map(|line| Evaluation { line: EvalLine::Pretrain(line), score: None }))
    }

    fn conclude(
        &self,
        _: &Coordinator,
        _: &RunDir,
        _: &mut PretrainModel,
        _: Option<&Best>,
        _: Conclusion,
    ) -> Result<Vec<EvalLine>, TrainError> {
        Ok(Vec::new())
    }
}

impl TaskModel for PretrainModel {
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
        Ok(self.train_micro_batch(&view(batch), dropout, loss_scale(counts), sink)?.into())
    }

    fn folder_writer(&self) -> FolderWriter {
        let config = self.config().clone();
        Box::new(move |sink, folder, buckets| {
            hf::save_folder_to(sink, folder, &config, |idx, values| values.copy_from_slice(&buckets[idx]))
        })
    }

    fn read_folder(&self, folder: &Path) -> Result<Vec<Vec<f32>>, TrainError> {
        let (config, buckets) = hf::load_folder(folder)?;
        saver::check_layout(folder, &ParameterLayout::new(&config), self.layout())?;
        Ok(buckets)
    }
}

/// The weights of a folder; heads that it lacks begin anew.
fn from_folder(folder: &Path, config: &ModelConfig, init_key: Key) -> Result<Vec<Vec<f32>>, TrainError> {
    lineage::check_same_model(folder, &hf::load_config(folder)?, config)?;
    let allowed = Allowed {
        missing: &|name| name.starts_with("cls.") || name.starts_with("bert.pooler."),
        unexpected: &|name| name.starts_with("classifier."),
        init_key: Some(init_key),
    };
    let loaded = hf::load(&Source::folder(folder)?, &allowed)?;
    lineage::note_initialised(folder, &loaded.initialised);
    Ok(loaded.buckets)
}

/// Loss = MLM sum / masked tokens of the global batch + NSP sum / pairs of the global batch.
fn loss_scale(counts: BatchCounts) -> LossScale {
    LossScale { mlm: inverse(counts.num_masked), nsp: inverse(counts.num_rows) }
}

/// `1 / count`, 0 where nothing was counted.
pub(super) fn inverse(count: u64) -> f32 {
    if count == 0 { 0.0 } else { 1.0 / count as f32 }
}

/// The same micro-batch as the model wants it: borrowed slices.
#[must_use]
pub fn view(batch: &MicroBatch) -> PretrainBatch<'_> {
    PretrainBatch {
        num_rows: batch.num_rows,
        row_len: batch.row_len,
        input_ids: &batch.input_ids,
        token_type_ids: &batch.token_type_ids,
        lengths: &batch.lengths,
        mlm_positions: &batch.mlm_positions,
        mlm_labels: &batch.mlm_labels,
        nsp_labels: &batch.nsp_labels,
    }
}
