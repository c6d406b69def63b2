//! Order of rows, their tokens, and that every row comes once an epoch.

use super::*;
use crate::testing::tokenizer;
use proptest::prelude::*;

fn text_row(text: &str, text_pair: Option<&str>) -> TextRow {
    TextRow { text: text.into(), text_pair: text_pair.map(str::to_owned), label: None, line: 1 }
}

fn encode(texts: &[TextRow], max_seq_length: usize) -> EncodedRows {
    let labels = (0..texts.len() as u32).collect();
    EncodedRows::encode(texts, labels, &tokenizer(), max_seq_length).unwrap()
}

/// `num_rows` rows of 0 to 6 words; the label of each is its index.
fn data(num_rows: usize, global: usize, micro: usize, seed: u64) -> ClassifyData {
    let words = ["w1", "w2", "w3", "w4", "w5", "w6"];
    let texts: Vec<_> = (0..num_rows).map(|idx| text_row(&words[..idx % 7].join(" "), None)).collect();
    ClassifyData::new(encode(&texts, 16), seed, global, micro).unwrap()
}

/// Rows of steps `0..num_steps`, in the order of positions.
fn rows_of(data: &ClassifyData, num_steps: u64) -> Vec<u64> {
    let num_rows = num_steps * data.global_batch_size as u64;
    (0..num_rows).map(|position| data.locate(position).sample_idx).collect()
}

/// Rows of each step as its slots have them, sorted.
fn rows_of_slots(data: &ClassifyData, num_steps: u64) -> Vec<Vec<u64>> {
    let num_slots = data.global_batch_size / data.micro_batch_size;
    let rows = |step| {
        let slot_rows = |slot| data.micro_batch(step, slot).unwrap().sample_idxs;
        let slots: Vec<Vec<u64>> = (0..num_slots).map(slot_rows).collect();
        assert!(slots.iter().all(|rows| rows.len() == data.micro_batch_size));
        let mut rows = slots.concat();
        rows.sort_unstable();
        rows
    };
    (0..num_steps).map(rows).collect()
}

proptest! {
    #[test]
    fn every_row_comes_once_in_every_epoch(
        num_rows in 1usize..60, slots in 1usize..5, micro in 1usize..7, seed in any::<u64>(),
    ) {
        let data = data(num_rows, slots * micro, micro, seed);
        let num_steps = (3 * num_rows).div_ceil(slots * micro) as u64;
        let rows = rows_of(&data, num_steps);
        let mut steps: Vec<_> = rows.chunks(slots * micro).map(<[u64]>::to_vec).collect();
        steps.iter_mut().for_each(|rows| rows.sort_unstable());
        prop_assert_eq!(rows_of_slots(&data, num_steps), steps);
        for epoch in rows.chunks_exact(num_rows) {
            let mut sorted = epoch.to_vec();
            sorted.sort_unstable();
            prop_assert_eq!(sorted, (0..num_rows as u64).collect::<Vec<_>>());
        }
    }

    #[test]
    fn how_a_step_is_cut_into_slots_changes_no_row(num_rows in 1usize..40, seed in any::<u64>()) {
        let whole = rows_of_slots(&data(num_rows, 12, 12, seed), 5);
        for micro in [1, 2, 3, 4, 6] {
            prop_assert_eq!(&rows_of_slots(&data(num_rows, 12, micro, seed), 5), &whole);
        }
    }

    #[test]
    fn evaluation_covers_every_row_once(num_rows in 1usize..80, size in 1usize..20) {
        let data = data(num_rows, 1, 1, 1);
        let batches = data.rows().batches_by_length(size);
        let mut all: Vec<usize> = batches.iter().flatten().copied().collect();
        all.sort_unstable();
        prop_assert_eq!(all, (0..num_rows).collect::<Vec<_>>());
        let lengths: Vec<_> = batches.iter().map(|batch| data.rows().batch(batch).row_len).collect();
        prop_assert!(lengths.is_sorted_by(|a, b| a >= b));
    }
}

#[test]
fn epochs_and_seeds_have_orders_of_their_own_and_the_tail_flows_on() {
    let (one, two) = (data(50, 20, 5, 1), data(50, 20, 5, 2));
    let rows = rows_of(&one, 5);
    assert_ne!(rows[..50], rows[50..]);
    assert_ne!(rows, rows_of(&two, 5));
    // Step 2 begins at position 40: its last ten rows belong to epoch 1, and are in any of its slots.
    assert!((0..4).all(|slot| one.micro_batch(2, slot).unwrap().epoch == 0));
    assert_eq!(one.micro_batch(3, 0).unwrap().epoch, 1);
    assert_eq!(one.locate(50).epoch, 1);
}

#[test]
fn rows_are_what_bert_reads() {
    let texts = [text_row("w1 w2", Some("w3")), text_row("", None), text_row("w4\tw5\nw6", None)];
    let rows = encode(&texts, 16);
    let batch = rows.batch(&[0, 1, 2]);
    let ids = |row: usize| {
        let tokenizer = tokenizer();
        let tokens = &batch.input_ids[row * 8..row * 8 + batch.lengths[row] as usize];
        tokens.iter().map(|&id| tokenizer.id_to_token(id).unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(ids(0), "[CLS] w1 w2 [SEP] w3 [SEP]");
    assert_eq!(ids(1), "[CLS] [SEP]");
    assert_eq!(ids(2), "[CLS] w4 w5 w6 [SEP]");
    assert_eq!(batch.token_type_ids[..8], [0, 0, 0, 0, 1, 1, 0, 0]);
    assert_eq!(
        (batch.row_len, &batch.lengths[..], &batch.class_labels[..]),
        (8, &[6, 2, 5][..], &[0, 1, 2][..])
    );
    assert_eq!(batch.input_ids[6..8], [0, 0]);
    let counts = rows.counts();
    assert_eq!((counts.num_rows, counts.num_empty, counts.num_truncated, counts.num_tokens), (3, 1, 0, 13));
}

#[test]
fn the_longer_text_is_cut_at_its_end() {
    // transformers, truncation=True (longest_first) with max_length 8: 5 text tokens of 4 + 4 remain as 3 + 2.
    let rows =
        encode(&[text_row("w1 w2 w3 w4", Some("w5 w6 w7 w8")), text_row("w1 w2 w3 w4 w5 w6 w7", None)], 8);
    let first = rows.batch(&[0]);
    let tokenizer = tokenizer();
    let id = |token: &str| tokenizer.token_to_id(token).unwrap();
    let expected = ["[CLS]", "w1", "w2", "w3", "[SEP]", "w5", "w6", "[SEP]"].map(id);
    assert_eq!(first.input_ids, expected);
    assert_eq!(rows.batch(&[1]).input_ids.len(), 8);
    let counts = rows.counts();
    assert_eq!((counts.num_truncated, counts.num_cut_tokens), (2, 4));
}
