//! Where an op leaves the gradients of its parameters.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::{Tensor, tensor::Gradients};

/// The gradient of a whole bucket, lent for one backward pass.
///
/// An op over a whole stage has up to sixteen parameters, which lie behind each other in the bucket that leaves for
/// the other ranks: written there at once, they need no tensors of their own.
#[derive(Clone, Debug, Default)]
pub(crate) struct GradientSlot(Arc<Mutex<Vec<f32>>>);

impl GradientSlot {
    /// Lends the memory of a bucket to the next backward pass.
    pub(crate) fn lend(&self, bucket: Vec<f32>) {
        *self.lock() = bucket;
    }

    /// Takes it back.
    pub(crate) fn take(&self) -> Vec<f32> {
        std::mem::take(&mut *self.lock())
    }

    /// Runs a backward pass whose op writes to this slot, with the bucket lent to it.
    pub(crate) fn backward(&self, root: Tensor<1>, bucket: Vec<f32>) -> (Gradients, Vec<f32>) {
        self.lend(bucket);
        let gradients = root.backward();
        (gradients, self.take())
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Vec<f32>> {
        lock(&self.0)
    }
}

/// Locks what one pass at a time uses. Buffers are overwritten before they are read, so that nothing a panic left
/// behind is ever seen.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
