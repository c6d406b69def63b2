//! Samples as they are trained on: masks, replacements, lengths of units, pairs, truncation, padding.
//!
//! Groups of micro-batches are measured in parallel; everything is a sum of whole numbers, so threads change nothing.

use super::statistics::{ChiSquare, chi_square};
use crate::balance::{SlotGroup, share_rows};
use crate::batch::{Sample, padded_row_len};
use crate::config::{MaskMode, PretrainDataConfig};
use crate::error::DataError;
use crate::masking::{Replacement, length_weights};
use crate::pretrain::PretrainData;
use rayon::prelude::*;
use serde::Serialize;
use std::ops::Range;

/// Ranges of documents that the partners of negatives are counted by.
const MAX_PARTNER_BINS: u64 = 1000;
/// Negatives per range, if there are enough.
const NEGATIVES_PER_BIN: u64 = 50;
/// Bins of the histogram of lengths.
const NUM_LENGTH_BINS: usize = 16;

/// Figures of samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SampleFigures {
    /// Samples looked at, from the first one on.
    pub num_samples: u64,
    /// Epochs they belong to, the last one perhaps in part.
    pub num_epochs: u64,
    /// Tokens without padding, special ones counted.
    pub num_tokens: u64,
    /// Masked tokens.
    pub num_masked: u64,
    /// Share of the tokens that is masked, over all samples.
    pub mask_share: f64,
    /// Share of the samples in which `max_predictions_per_seq` cuts the budget.
    pub capped_sample_share: f64,
    /// Share that whole budgets allow in the samples that are not cut: the asked one, rounded per sample.
    pub uncapped_budget_share: f64,
    /// Share of the tokens that is masked in these samples.
    pub uncapped_mask_share: f64,
    /// Shares of `[MASK]`, random tokens and kept ones among the masked.
    pub replaced: [f64; 3],
    /// Draws behind these shares: one per token or one per unit.
    pub num_replacement_draws: u64,
    /// Lengths of units.
    pub lengths: LengthFigures,
    /// Pairs, if there is a sentence objective.
    pub pairs: Option<PairFigures>,
    /// Share of the samples that something was cut off from.
    pub truncated_sample_share: f64,
    /// Share of the tokens that was cut off.
    pub truncated_token_share: f64,
    /// Share of the positions of micro-batches that is padding.
    pub padding_share: f64,
    /// Number of samples by length in tokens.
    pub sequence_lengths: Vec<LengthBin>,
    /// Samples that break a rule of masking: a special token chosen or inserted, units that overlap or cross a
    /// `[SEP]`, more than the budget, a label that is not the token.
    pub num_rule_breaks: u64,
}

/// Lengths of masked units in words; the vectors hold 1, 2, .. words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LengthFigures {
    /// Shares asked for.
    pub asked: Vec<f64>,
    /// Units by the length first drawn.
    pub drawn: Vec<u64>,
    /// Units by the length they have: shorter where the first did not fit.
    pub realised: Vec<u64>,
    /// Test of the drawn lengths against the asked shares.
    pub drawn_test: ChiSquare,
    /// Mean of the asked distribution, in words.
    pub asked_mean_words: f64,
    /// Mean of the realised lengths, in words.
    pub realised_mean_words: f64,
    /// Share of the units that are shorter than drawn.
    pub shortened_share: f64,
}

/// Labels and partners.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairFigures {
    /// Share of label 1: random under NSP, swapped under SOP.
    pub negative_share: f64,
    /// Random partners.
    pub num_random: u64,
    /// Those among them from the first segment's own document.
    pub num_own_document: u64,
    /// Test of the partners' documents against a uniform choice; absent where another choice is asked for.
    pub partner_test: Option<ChiSquare>,
}

/// One bin of the histogram of lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LengthBin {
    /// The longest length in the bin, in tokens.
    pub up_to_tokens: usize,
    /// Number of samples.
    pub num_samples: u64,
}

/// Whole numbers that add up over samples.
#[derive(Clone, Debug)]
struct Tally {
    num_samples: u64,
    num_tokens: u64,
    num_masked: u64,
    num_capped: u64,
    uncapped: [u64; 3], // tokens, budget, masked
    replaced: [u64; 3],
    num_units: u64,
    num_shortened: u64,
    drawn: Vec<u64>,
    realised: Vec<u64>,
    labels: [u64; 2],
    num_own_document: u64,
    /// Negatives with a random partner, by the partner's range of documents.
    partners: Vec<u64>,
    /// The same by the range of the own document.
    owners: Vec<u64>,
    num_truncated_samples: u64,
    num_truncated: u64,
    num_positions: u64,
    lengths: Vec<u64>,
    num_rule_breaks: u64,
}

/// What the tallies need to know.
struct Ruler<'a> {
    data: &'a PretrainData,
    num_lengths: usize,
    num_bins: usize,
    length_step: usize,
}

/// Measures the first `num_samples` samples in micro-batches as they are trained on. Static masks repeat, so no more
/// than one turn of their copies is measured.
pub(super) fn measure(data: &PretrainData, num_samples: u64) -> Result<SampleFigures, DataError> {
    let mut num_samples = num_samples.max(1);
    if let MaskMode::Static { num_copies } = data.config().masking.mode {
        num_samples = num_samples.min(data.position_of_epoch(num_copies)?);
    }
    let num_trained_on =
        (0..data.corpus().num_documents()).filter(|&document| data.is_trained_on(document)).count();
    let num_bins =
        (num_samples / 2 / NEGATIVES_PER_BIN).clamp(1, MAX_PARTNER_BINS).min(num_trained_on as u64);
    let ruler = Ruler {
        data,
        num_lengths: length_weights(&data.config().masking).len(),
        num_bins: num_bins as usize,
        length_step: data.config().max_seq_length.div_ceil(NUM_LENGTH_BINS),
    };
    let tally = groups(data.config(), num_samples)
        .into_par_iter()
        .try_fold(
            || ruler.empty(),
            |mut tally, positions| {
                ruler.add_group(&mut tally, positions)?;
                Ok(tally)
            },
        )
        .try_reduce(|| ruler.empty(), |a, b| Ok(a.plus(&b)))?;
    let num_epochs = data.locate(num_samples - 1)?.epoch + 1;
    Ok(ruler.figures(&tally, num_epochs))
}

/// Positions of the slots that are filled together, up to `num_samples`.
fn groups(config: &PretrainDataConfig, num_samples: u64) -> Vec<Range<u64>> {
    let (mut groups, mut start) = (Vec::new(), 0);
    while start < num_samples {
        let (global_batch_size, micro_batch_size) = (config.global_batch_size, config.micro_batch_size);
        let (step, row) = (start / global_batch_size as u64, start % global_batch_size as u64);
        let slot = row as usize / micro_batch_size;
        let group = SlotGroup::of_slot(step, slot, global_batch_size, micro_batch_size);
        let end = num_samples.min(group.positions.end);
        groups.push(start..end);
        start = end;
    }
    groups
}

/// A part of a whole that may be 0.
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn mean_words(weights: impl Iterator<Item = f64>) -> f64 {
    let (sum, weighted) = weights.zip(1u32..).fold((0.0, 0.0), |(sum, weighted), (weight, words)| {
        (sum + weight, weighted + weight * f64::from(words))
    });
    if sum > 0.0 { weighted / sum } else { 0.0 }
}

impl Tally {
    fn plus(mut self, other: &Self) -> Self {
        let add = |mine: &mut [u64], other: &[u64]| mine.iter_mut().zip(other).for_each(|(a, b)| *a += b);
        self.num_samples += other.num_samples;
        self.num_tokens += other.num_tokens;
        self.num_masked += other.num_masked;
        self.num_capped += other.num_capped;
        self.num_units += other.num_units;
        self.num_shortened += other.num_shortened;
        self.num_own_document += other.num_own_document;
        self.num_truncated_samples += other.num_truncated_samples;
        self.num_truncated += other.num_truncated;
        self.num_positions += other.num_positions;
        self.num_rule_breaks += other.num_rule_breaks;
        add(&mut self.uncapped, &other.uncapped);
        add(&mut self.replaced, &other.replaced);
        add(&mut self.drawn, &other.drawn);
        add(&mut self.realised, &other.realised);
        add(&mut self.labels, &other.labels);
        add(&mut self.partners, &other.partners);
        add(&mut self.owners, &other.owners);
        add(&mut self.lengths, &other.lengths);
        self
    }
}

impl Ruler<'_> {
    fn empty(&self) -> Tally {
        Tally {
            num_samples: 0,
            num_tokens: 0,
            num_masked: 0,
            num_capped: 0,
            uncapped: [0; 3],
            replaced: [0; 3],
            num_units: 0,
            num_shortened: 0,
            drawn: vec![0; self.num_lengths],
            realised: vec![0; self.num_lengths],
            labels: [0; 2],
            num_own_document: 0,
            partners: vec![0; self.num_bins],
            owners: vec![0; self.num_bins],
            num_truncated_samples: 0,
            num_truncated: 0,
            num_positions: 0,
            lengths: vec![0; NUM_LENGTH_BINS],
            num_rule_breaks: 0,
        }
    }

    fn add_group(&self, tally: &mut Tally, positions: Range<u64>) -> Result<(), DataError> {
        let mut lengths = Vec::new();
        for position in positions {
            let sample = self.data.sample(position)?;
            lengths.push(sample.input_ids.len() as u32);
            self.add_masks(tally, &sample);
            self.add_row(tally, &sample);
        }
        // The last group may end in the middle of a slot.
        let num_rows = self.data.config().micro_batch_size;
        let (whole, rest) = lengths.split_at(lengths.len() / num_rows * num_rows);
        let num_slots = whole.len() / num_rows;
        let slots = if num_slots > 0 { share_rows(whole, num_slots) } else { vec![] };
        let of_slot = |rows: &Vec<usize>| rows.iter().map(|&row| whole[row]).collect();
        let slots: Vec<Vec<u32>> = slots.iter().map(of_slot).chain([rest.to_vec()]).collect();
        tally.num_positions += slots.iter().map(|lengths| self.num_positions(lengths)).sum::<u64>();
        Ok(())
    }

    /// Positions of a micro-batch with rows of these lengths.
    fn num_positions(&self, lengths: &[u32]) -> u64 {
        (lengths.len() * padded_row_len(lengths, self.data.config().max_seq_length)) as u64
    }

    fn add_masks(&self, tally: &mut Tally, sample: &Sample) {
        let num_tokens = sample.input_ids.len();
        let num_masked = sample.mlm_positions.len() as u64;
        let masking = &self.data.config().masking;
        let budget = self.data.masker().budget(num_tokens);
        let is_capped = (masking.mlm_probability * num_tokens as f64).round_ties_even() as usize
            > masking.max_predictions_per_seq;
        tally.num_masked += num_masked;
        tally.num_capped += u64::from(is_capped);
        if !is_capped {
            let counts = [num_tokens as u64, budget as u64, num_masked];
            tally.uncapped.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
        for replacement in &sample.replacements {
            let kind = match replacement {
                Replacement::Mask => 0,
                Replacement::Random => 1,
                Replacement::Keep => 2,
            };
            tally.replaced[kind] += 1;
        }
        for unit in &sample.units {
            tally.num_units += 1;
            tally.num_shortened += u64::from(unit.num_words < unit.num_words_drawn);
            tally.drawn[unit.num_words_drawn - 1] += 1;
            tally.realised[unit.num_words - 1] += 1;
        }
        tally.num_rule_breaks += u64::from(!self.keeps_the_rules(sample, budget));
    }

    fn keeps_the_rules(&self, sample: &Sample, budget: usize) -> bool {
        let manifest = self.data.corpus().manifest();
        let special = manifest.special;
        let is_special = |id: u32| manifest.special_ids.binary_search(&id).is_ok();
        let mut free_from = 0;
        let units_are_good = sample.units.iter().all(|unit| {
            let inside = &sample.original_ids[unit.start..unit.end];
            let is_apart = unit.start >= free_from;
            free_from = unit.end;
            is_apart && !inside.contains(&special.sep) && !inside.contains(&special.cls)
        });
        let masks = sample.mlm_positions.iter().zip(&sample.mlm_labels).zip(&sample.replacements);
        let masks_are_good = masks.clone().all(|((&position, &label), &replacement)| {
            let inserted = sample.input_ids[position as usize];
            let fits = match replacement {
                Replacement::Mask => inserted == special.mask,
                Replacement::Random => !is_special(inserted),
                Replacement::Keep => inserted == label,
            };
            fits && !is_special(label) && label == sample.original_ids[position as usize]
        });
        units_are_good && masks_are_good && sample.mlm_positions.len() <= budget
    }

    fn add_row(&self, tally: &mut Tally, sample: &Sample) {
        let num_tokens = sample.input_ids.len();
        tally.num_samples += 1;
        tally.num_tokens += num_tokens as u64;
        tally.lengths[((num_tokens.max(1) - 1) / self.length_step).min(NUM_LENGTH_BINS - 1)] += 1;
        tally.num_truncated += sample.num_truncated as u64;
        tally.num_truncated_samples += u64::from(sample.num_truncated > 0);
        if let Some(label) = sample.nsp_label {
            tally.labels[usize::from(label)] += 1;
        }
        if let Some(other) = sample.other_document {
            tally.num_own_document += u64::from(other == sample.document);
            tally.partners[self.bin(other)] += 1;
            tally.owners[self.bin(sample.document)] += 1;
        }
    }

    /// The range of documents that a document is counted in.
    fn bin(&self, document: u64) -> usize {
        let num_documents = self.data.corpus().num_documents();
        (u128::from(document) * self.num_bins as u128 / u128::from(num_documents)) as usize
    }

    fn figures(&self, tally: &Tally, num_epochs: u64) -> SampleFigures {
        let Tally { num_samples, num_tokens, num_masked, .. } = *tally;
        let is_by_unit = self.data.config().masking.unit == crate::ReplaceUnit::Span;
        let bin = |(idx, &num_samples): (usize, &u64)| LengthBin {
            up_to_tokens: ((idx + 1) * self.length_step).min(self.data.config().max_seq_length),
            num_samples,
        };
        let num_bins = self.data.config().max_seq_length.div_ceil(self.length_step);
        SampleFigures {
            num_samples,
            num_epochs,
            num_tokens,
            num_masked,
            mask_share: share(num_masked, num_tokens),
            capped_sample_share: share(tally.num_capped, num_samples),
            uncapped_budget_share: share(tally.uncapped[1], tally.uncapped[0]),
            uncapped_mask_share: share(tally.uncapped[2], tally.uncapped[0]),
            replaced: tally.replaced.map(|count| share(count, num_masked)),
            num_replacement_draws: if is_by_unit { tally.num_units } else { num_masked },
            lengths: self.length_figures(tally),
            pairs: (tally.labels[0] + tally.labels[1] > 0).then(|| self.pair_figures(tally)),
            truncated_sample_share: share(tally.num_truncated_samples, num_samples),
            truncated_token_share: share(tally.num_truncated, num_tokens + tally.num_truncated),
            padding_share: share(tally.num_positions - num_tokens, tally.num_positions),
            sequence_lengths: tally.lengths[..num_bins].iter().enumerate().map(bin).collect(),
            num_rule_breaks: tally.num_rule_breaks,
        }
    }

    fn length_figures(&self, tally: &Tally) -> LengthFigures {
        let weights = length_weights(&self.data.config().masking);
        let sum: f64 = weights.iter().sum();
        let asked: Vec<f64> = weights.into_iter().map(|weight| weight / sum).collect();
        let expected: Vec<f64> = asked.iter().map(|share| share * tally.num_units as f64).collect();
        LengthFigures {
            drawn_test: chi_square(&tally.drawn, &expected),
            asked_mean_words: mean_words(asked.iter().copied()),
            realised_mean_words: mean_words(tally.realised.iter().map(|&count| count as f64)),
            shortened_share: share(tally.num_shortened, tally.num_units),
            asked,
            drawn: tally.drawn.clone(),
            realised: tally.realised.clone(),
        }
    }

    /// A partner is uniform over all documents of its side but the own one, so a range of `n` documents expects
    /// `(n * negatives - negatives whose own document is in it) / (documents - 1)`.
    fn pair_figures(&self, tally: &Tally) -> PairFigures {
        let num_random: u64 = tally.partners.iter().sum();
        let is_tested = num_random > 0 && self.data.has_uniform_partners();
        let partner_test = is_tested.then(|| {
            let mut num_documents = vec![0u64; self.num_bins];
            let documents = 0..self.data.corpus().num_documents();
            for document in documents.filter(|&document| self.data.is_trained_on(document)) {
                num_documents[self.bin(document)] += 1;
            }
            let num_others = (num_documents.iter().sum::<u64>() - 1) as f64;
            let expected: Vec<f64> = num_documents
                .iter()
                .zip(&tally.owners)
                .map(|(&documents, &owners)| {
                    (documents as f64 * num_random as f64 - owners as f64) / num_others
                })
                .collect();
            chi_square(&tally.partners, &expected)
        });
        PairFigures {
            negative_share: share(tally.labels[1], tally.labels[0] + tally.labels[1]),
            num_random,
            num_own_document: tally.num_own_document,
            partner_test,
        }
    }
}
