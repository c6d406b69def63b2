//! How panels are filled from a matrix in memory.
//!
//! Owns the order in which the source is read: where lanes are neighbours in memory its rows are dealt out to the panels, where
//! steps of the depth are, squares are transposed.

use super::cast::{Cast, VECTOR, move_lanes};
use super::pack::{LINE, Matrix};
use crate::simd::tile::words_of;
use crate::simd::transpose::{NARROW, Square, transpose, transpose_between, transpose_narrow};
use crate::simd::widest;
use crate::simd::window::fetch_word;
use std::slice::{self, ChunksExactMut};

/// Steps of a panel that are asked for before they are written: rows are dealt out to more panels than the processor follows.
const STEPS_AHEAD: usize = 8;
/// Values of a row that are asked for before they are dealt out: rows are too short for the processor to run ahead of its own accord.
const VALUES_AHEAD: usize = 256;

/// An operand as lanes and a summed dimension.
pub(super) struct LaneView<'a> {
    /// Matrices of equal shape whose lanes follow each other; one if lanes are neighbours in memory.
    parts: &'a [&'a [f32]],
    lanes_per_part: usize,
    pub(super) lanes: usize,
    pub(super) depth: usize,
    stride: usize,
    /// Whether neighbours in memory are neighbours along the depth, or along the lanes.
    depth_is_contiguous: bool,
}

impl<'a> LaneView<'a> {
    /// Returns the rows of a matrix.
    pub(super) fn rows_of(matrix: &'a Matrix<'a>) -> Self {
        let ((lanes, depth), stride) = (matrix.shape(), matrix.stride());
        let (parts, depth_is_contiguous) = (slice::from_ref(&matrix.values), !matrix.is_transposed());
        Self { parts, lanes_per_part: lanes, lanes, depth, stride, depth_is_contiguous }
    }

    /// Returns the rows of several matrices in row-major memory, one below the other.
    ///
    /// # Panics
    ///
    /// If they do not have `lanes_per_part * depth` values each.
    pub(super) fn stacked(parts: &'a [&'a [f32]], lanes_per_part: usize, depth: usize) -> Self {
        for part in parts {
            assert_eq!(part.len(), lanes_per_part * depth, "stacked matrices have the same shape");
        }
        let lanes = parts.len() * lanes_per_part;
        Self { parts, lanes_per_part, lanes, depth, stride: depth, depth_is_contiguous: true }
    }

    /// Returns the values from the beginning of a lane on, and the number of lanes there.
    #[inline(always)]
    fn lanes_at(&self, lane: usize) -> (&'a [f32], usize) {
        let (part, lane) = (lane / self.lanes_per_part, lane % self.lanes_per_part);
        (&self.parts[part][lane * self.stride..], self.lanes_per_part - lane)
    }
}

/// Fills a few neighbouring panels of `W` lanes, which begin every `panel_len` words.
pub(super) fn pack_group<const W: usize>(
    view: &LaneView<'_>,
    cast: Cast,
    first_panel: usize,
    words: &mut [u32],
    panel_len: usize,
) {
    widest(
        #[inline(always)]
        || {
            // Written out, so that each way to cast is compiled on its own: asking for every vector which one it is takes
            // as long as moving it.
            match cast {
                Cast::Keep => fill_panels::<W>(view, Cast::Keep, first_panel, words, panel_len),
                Cast::Round => fill_panels::<W>(view, Cast::Round, first_panel, words, panel_len),
                Cast::Pair => fill_panels::<W>(view, Cast::Pair, first_panel, words, panel_len),
            }
        },
    );
}

#[inline(always)]
fn fill_panels<const W: usize>(
    view: &LaneView<'_>,
    cast: Cast,
    first_panel: usize,
    words: &mut [u32],
    panel_len: usize,
) {
    if view.depth_is_contiguous {
        let num_words = view.depth.div_ceil(cast.values_per_word()) * W;
        for (i, panel) in words.chunks_exact_mut(panel_len).enumerate() {
            let first_lane = (first_panel + i) * W;
            // What is written behind the last step lies between panels.
            let done = if W == 6 { transpose_narrow_panel(view, cast, first_lane, panel) } else { 0 };
            if done < view.depth {
                transpose_panel::<W>(view, cast, first_lane, done, &mut panel[..num_words]);
            }
        }
    } else {
        interleave_panels::<W>(view, cast, first_panel * W, words, panel_len);
    }
}

/// Deals the rows of the source out to the panels, each row from its beginning to its end: rows lie far apart, and memory is
/// read fastest in one direction.
#[inline(always)]
fn interleave_panels<const W: usize>(
    view: &LaneView<'_>,
    cast: Cast,
    first_lane: usize,
    words: &mut [u32],
    panel_len: usize,
) {
    let &[values] = view.parts else { unreachable!("lanes of one matrix are neighbours in memory") };
    let per_word = cast.values_per_word();
    let row = |depth: usize| &values[depth * view.stride + first_lane..][..view.lanes - first_lane];
    for step in 0..view.depth.div_ceil(per_word) {
        let depth = step * per_word;
        let rows = (row(depth), (per_word == 2 && depth + 1 < view.depth).then(|| row(depth + 1)));
        let panels = words.chunks_exact_mut(panel_len);
        // What a whole vector writes behind a step is overwritten by the next one, or lies between panels.
        match W {
            14 => interleave_step::<W, VECTOR>(cast, rows, step, panels),
            6 => interleave_step::<W, NARROW>(cast, rows, step, panels),
            _ => interleave_step::<W, W>(cast, rows, step, panels),
        }
    }
}

/// Deals one row out, or two that share their words: `N` lanes at a time, of which `W` belong to a panel.
#[inline(always)]
fn interleave_step<const W: usize, const N: usize>(
    cast: Cast,
    (first, second): (&[f32], Option<&[f32]>),
    step: usize,
    mut panels: ChunksExactMut<'_, u32>,
) {
    let (place, mut lane) = (step * W, 0);
    for (first, panel) in first.windows(N).step_by(W).zip(&mut panels) {
        for line in (0..W).step_by(LINE) {
            fetch_word(panel, place + STEPS_AHEAD * W + line);
            // One line to one line is as fast as a copy already.
            if W != LINE {
                fetch_word(words_of(first), VALUES_AHEAD + line);
            }
        }
        move_lanes::<N>(cast, first, second.map(|second| &second[lane..]), &mut panel[place..]);
        lane += W;
    }
    for panel in panels {
        let there = lane..first.len().min(lane + W);
        let (words, behind) = panel[place..place + W].split_at_mut(there.len());
        cast.along_lanes(&first[there.clone()], second.map(|second| &second[there]), words);
        behind.fill(0);
        lane += W;
    }
}

/// Fills as many steps of a panel of six lanes as make whole squares, and returns how many those are.
#[inline(always)]
fn transpose_narrow_panel(view: &LaneView<'_>, cast: Cast, first_lane: usize, panel: &mut [u32]) -> usize {
    const LANES: usize = 6;
    let (values, num_there) = view.lanes_at(first_lane);
    if num_there < LANES || cast == Cast::Pair {
        return 0;
    }
    let num_whole = view.depth - view.depth % NARROW;
    for first in (0..num_whole).step_by(NARROW) {
        let (words, out) = (words_of(&values[first..]), &mut panel[first * LANES..]);
        if !transpose_narrow::<LANES>(words, view.stride, cast == Cast::Round, out) {
            return 0;
        }
    }
    num_whole
}

/// Fills a panel from step `done` of the depth on, which begins a word.
#[inline(always)]
fn transpose_panel<const W: usize>(
    view: &LaneView<'_>,
    cast: Cast,
    first_lane: usize,
    done: usize,
    words: &mut [u32],
) {
    let per_word = cast.values_per_word();
    let num_lanes = W.min(view.lanes - first_lane);
    let steps = &mut words.as_chunks_mut::<W>().0[done / per_word..];
    for group in (0..W).step_by(16) {
        // Rows behind the last lane stay zero; columns behind the last word are never read.
        let mut square: Square = [[0; 16]; 16];
        let width = 16.min(W - group);
        let (values, num_there) = view.lanes_at((first_lane + group).min(view.lanes - 1));
        let is_whole = width == VECTOR && VECTOR <= num_there && cast != Cast::Pair;
        for (block_idx, block) in steps.chunks_mut(16).enumerate() {
            let first = done + 16 * block_idx * per_word;
            let len = (16 * per_word).min(view.depth - first);
            if is_whole && len == VECTOR {
                let out = &mut block.as_flattened_mut()[group..];
                if transpose_between(words_of(&values[first..]), view.stride, cast == Cast::Round, out, W) {
                    continue;
                }
            }
            for (row, lane) in square.iter_mut().zip(group..num_lanes.min(group + 16)) {
                let values = &view.lanes_at(first_lane + lane).0[first..][..len];
                if values.len() == VECTOR * per_word {
                    *row = cast.vector(values);
                } else {
                    cast.along_depth(values, row);
                }
            }
            let mut columns: Square = [[0; 16]; 16];
            transpose(&square, &mut columns);
            for (step, column) in block.iter_mut().zip(&columns) {
                if width == 14 {
                    step[group..group + 14].copy_from_slice(&column[..14]);
                } else if width == VECTOR {
                    step[group..group + VECTOR].copy_from_slice(column);
                } else {
                    step[group..group + width].copy_from_slice(&column[..width]);
                }
            }
        }
    }
}
