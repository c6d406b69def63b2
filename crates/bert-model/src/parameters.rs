//! Between modules and flat buckets: building, reading and replacing parameters, and reading their gradients.
//!
//! Every module declares its fields in layout order, and burn visits fields in that order; so one running offset is
//! all the bookkeeping there is. Names and shapes are checked when a module is built.

use std::ops::Range;

use burn::{
    Tensor,
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Device, Gradients},
};

use crate::{
    layout::BucketLayout,
    ops::raw::{self, SharedValues},
};

/// Hands out the parameters of one bucket, in layout order, as tracked tensors.
pub(crate) struct BucketSource<'a> {
    layout: &'a BucketLayout,
    values: &'a SharedValues,
    device: &'a Device,
    next_idx: usize,
}

impl<'a> BucketSource<'a> {
    pub(crate) fn new(layout: &'a BucketLayout, values: &'a SharedValues, device: &'a Device) -> Self {
        assert_eq!(values.values().len(), layout.num_elements, "values of bucket `{}`", layout.name);
        Self { layout, values, device, next_idx: 0 }
    }

    /// Takes the next parameter.
    ///
    /// # Panics
    ///
    /// If the next parameter of the layout has another name or rank: a module whose fields stand in another order.
    pub(crate) fn take<const D: usize>(&mut self, name_end: &str) -> Param<Tensor<D>> {
        let spec = &self.layout.parameters[self.next_idx];
        assert!(spec.name.ends_with(name_end), "expected a parameter `..{name_end}`, got `{}`", spec.name);
        self.next_idx += 1;
        let shape: [usize; D] = spec.shape.clone().try_into().expect("a parameter has the rank of its field");
        let tensor = self.values.tensor(spec.offset, shape, self.device);
        Param::from_tensor(tensor.autodiff().require_grad())
    }
}

/// Lends a range of the parameters of a module, counted over all of them: where they lie, or else a copy.
///
/// # Panics
///
/// If the module ends before the range does.
pub(crate) fn with_range<M: Module, R>(module: &M, range: Range<usize>, read: impl FnOnce(&[f32]) -> R) -> R {
    struct Finder(Option<SharedValues>);

    impl ModuleVisitor for Finder {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.0 = self.0.take().or_else(|| SharedValues::of(&param.val()));
        }
    }

    let mut finder = Finder(None);
    module.visit(&mut finder);
    // Every module is built over one piece of memory, and moves to another one as a whole.
    if let Some(bucket) = finder.0 {
        return read(&bucket.values()[range]);
    }
    let mut copy = vec![0.0; range.len()];
    copy_range(module, range, &mut copy);
    read(&copy)
}

/// Copies a range of the parameters of a module, counted over all of them, to `out`.
///
/// # Panics
///
/// If the module ends before the range does, or `out` is not as long as the range.
fn copy_range<M: Module>(module: &M, range: Range<usize>, out: &mut [f32]) {
    struct Reader<'a> {
        range: Range<usize>,
        out: &'a mut [f32],
        offset: usize,
        num_read: usize,
    }

    impl ModuleVisitor for Reader<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let (first, end) = (self.offset, self.offset + tensor.shape().num_elements());
            self.offset = end;
            let (from, to) = (first.max(self.range.start), end.min(self.range.end));
            if from < to {
                let out = &mut self.out[from - self.range.start..to - self.range.start];
                raw::with_values(tensor, |values| out.copy_from_slice(&values[from - first..to - first]));
                self.num_read += to - from;
            }
        }
    }

    assert_eq!(out.len(), range.len(), "room for the range");
    let mut reader = Reader { range, out, offset: 0, num_read: 0 };
    module.visit(&mut reader);
    assert_eq!(reader.num_read, reader.range.len(), "a bucket is as long as its module");
}

/// Replaces all parameters of a module and leaves them tracked. Returns memory that is not needed any more, of any length
/// and content: where the backend can, the parameters move to the memory of `values`, and what they leave comes back.
///
/// # Panics
///
/// If `values` is not as long as the module's parameters.
pub(crate) fn replace<M: Module>(module: &mut M, values: Vec<f32>) -> Vec<f32> {
    struct Replacer {
        bucket: SharedValues,
        offset: usize,
        left: Option<SharedValues>,
    }

    impl ModuleMapper for Replacer {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (id, tensor, mapper) = param.consume();
            let start = self.offset;
            self.offset += tensor.shape().num_elements();
            self.left = self.left.take().or_else(|| SharedValues::of(&tensor));
            let tensor = self.bucket.put(tensor, start).autodiff().require_grad();
            Param::from_mapped_value(id, tensor, mapper)
        }
    }

    let num_values = values.len();
    let mut replacer = Replacer { bucket: SharedValues::new(values), offset: 0, left: None };
    *module = take(module).map(&mut replacer);
    assert_eq!(replacer.offset, num_values, "a bucket is as long as its module");
    let left = replacer.left.and_then(SharedValues::into_values);
    left.or_else(|| replacer.bucket.into_values()).unwrap_or_default()
}

/// Moves a module out and leaves an empty shell, so that its tensors have one owner and their memory can be used again.
fn take<M: Module>(module: &mut M) -> M {
    struct Emptier;

    impl ModuleMapper for Emptier {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|tensor| raw::from_values(Vec::new(), [0; D], &tensor.device()))
        }
    }

    let shell = module.clone().map(&mut Emptier);
    std::mem::replace(module, shell)
}

/// Runs backward from a root in the graph of a module's output, and fills the bucket with the gradients of the
/// module's parameters.
pub(crate) fn backward<M: Module>(
    module: &M,
    root: Tensor<1>,
    mut bucket: Vec<f32>,
) -> (Gradients, Vec<f32>) {
    let mut gradients = root.backward();
    take_gradients(module, &mut gradients, &mut bucket);
    (gradients, bucket)
}

/// Moves the gradients of all parameters of a module to `out`; zeros where nothing depended on a parameter.
///
/// # Panics
///
/// If `out` is not as long as the module's parameters.
pub(crate) fn take_gradients<M: Module>(module: &M, gradients: &mut Gradients, out: &mut [f32]) {
    struct GradientReader<'a, 'g>(&'a mut [f32], &'g mut Gradients);

    impl ModuleVisitor for GradientReader<'_, '_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let tensor = param.val();
            let head =
                self.0.split_off_mut(..tensor.shape().num_elements()).expect("a bucket holds its module");
            match tensor.grad_remove(self.1) {
                Some(gradient) => raw::copy_to(gradient, head),
                None => head.fill(0.0),
            }
        }
    }

    let mut reader = GradientReader(out, gradients);
    module.visit(&mut reader);
    assert!(reader.0.is_empty(), "a bucket is as long as its module");
}
