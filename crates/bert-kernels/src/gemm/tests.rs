//! Tests of matrix products: every kernel, orientation and shape against the reference, and any number of threads.

use super::*;
use crate::simd::window::Window;
use proptest::prelude::*;

fn values(len: usize, part: u64) -> Vec<f32> {
    let mut stream = bert_random::Key::new(7, bert_random::Purpose::Debug).with(part).stream();
    (0..len).map(|_| stream.normal() as f32).collect()
}

fn transpose(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect()
}

fn packed(
    path: Path,
    (a, a_transposed): (&[f32], bool),
    (b, b_transposed): (&[f32], bool),
    [rows, depth, cols]: [usize; 3],
) -> (PackedA, PackedB) {
    let (mut left, mut right) = (PackedA::for_path(path), PackedB::for_path(path));
    let (turned_a, turned_b) = (transpose(a, rows, depth), transpose(b, depth, cols));
    left.pack(if a_transposed {
        Matrix::new(&turned_a, depth, rows).transposed()
    } else {
        Matrix::new(a, rows, depth)
    });
    right.pack(if b_transposed {
        Matrix::new(&turned_b, cols, depth).transposed()
    } else {
        Matrix::new(b, depth, cols)
    });
    (left, right)
}

/// The largest error that rounding sums of `depth` products of standard normal values explains.
fn tolerance(depth: usize) -> f64 {
    1e-6 * (depth as f64 + 10.0)
}

#[track_caller]
fn check_close(got: &[f32], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= tolerance, "{what}: element {i} is {got}, expected {expected}");
    }
}

fn check_all_kernels(shape: [usize; 3], orientation: [bool; 2]) {
    let [rows, depth, cols] = shape;
    let (a, b) = (values(rows * depth, 1), values(depth * cols, 2));
    for path in Path::all() {
        let (left, right) = packed(path, (&a, orientation[0]), (&b, orientation[1]), shape);
        let mut out = vec![f32::NAN; rows * cols];
        multiply(&left, &right, &mut out);
        let rounded = |values: &[f32]| -> Vec<f32> {
            match path.precision {
                Precision::F32 => values.to_vec(),
                Precision::Bf16 => values.iter().map(|v| round_to_bf16(*v)).collect(),
            }
        };
        let expected = reference::multiply(&rounded(&a), &rounded(&b), shape);
        let what = format!("{path} {shape:?} {orientation:?}");
        check_close(&out, &expected, tolerance(depth), &what);
        let start = values(rows * cols, 3);
        let mut added = start.clone();
        multiply_add(&left, &right, &mut added);
        let expected: Vec<f64> = expected.iter().zip(&start).map(|(e, s)| e + f64::from(*s)).collect();
        check_close(&added, &expected, tolerance(depth), &what);
    }
}

#[test]
fn edge_shapes_on_every_kernel_in_every_orientation() {
    let shapes = [
        [1, 1, 1],
        [1, 5, 1],
        [2, 0, 3],
        [9, 0, 40],
        [14, 32, 32],
        [15, 31, 33],
        [13, 17, 64],
        [29, 1025, 70],
        [3, 2500, 5],
        [150, 64, 40],
        [1, 64, 211],
    ];
    for shape in shapes {
        for orientation in [[false, false], [false, true], [true, false], [true, true]] {
            check_all_kernels(shape, orientation);
        }
    }
}

#[test]
fn at_least_the_portable_kernel_is_tested() {
    assert!(Path::all().contains(&Path { precision: Precision::F32, kernel: Kernel::Portable }));
    assert!(Path::all().contains(&Precision::F32.path()));
    assert!(Path::all().contains(&Precision::Bf16.path()));
}

#[test]
fn avx2_and_avx512_give_the_same_bits() {
    if !Kernel::Avx512.is_available() {
        println!("skipped: no AVX-512 here");
        return;
    }
    let shape = [37, 1300, 75];
    let (a, b) = (values(37 * 1300, 1), values(1300 * 75, 2));
    let on = |kernel| {
        let (left, right) =
            packed(Path { precision: Precision::F32, kernel }, (&a, false), (&b, false), shape);
        let mut out = vec![0.0; 37 * 75];
        multiply(&left, &right, &mut out);
        out
    };
    assert_eq!(on(Kernel::Avx512), on(Kernel::Avx2));
}

/// Long sums over several blocks, regions along rows and along columns, and left operands that are read where they lie or
/// rounded.
#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    for shape in [[301, 1100, 65], [20, 1100, 700], [301, 700, 65]] {
        let [rows, depth, cols] = shape;
        let (a, b) = (values(rows * depth, 1), values(depth * cols, 2));
        for path in Path::all() {
            let on = |num_threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(num_threads).build().unwrap();
                pool.install(|| {
                    let (left, right) = packed(path, (&a, false), (&b, true), shape);
                    let mut out = vec![0.0; 2 * rows * cols];
                    let (of_packed, of_operand) = out.split_at_mut(rows * cols);
                    multiply(&left, &right, of_packed);
                    let mut scratch = LeftScratch::for_path(path);
                    multiply(scratch.operand(Matrix::new(&a, rows, depth)), &right, of_operand);
                    assert_eq!(of_operand, of_packed, "{path}");
                    out
                })
            };
            let single = on(1);
            assert_eq!(on(2), single, "{path}");
            assert_eq!(on(3), single, "{path}");
        }
    }
}

#[test]
fn a_second_matrix_leaves_nothing_of_the_first() {
    let mut left = PackedA::new(Precision::F32);
    left.pack(Matrix::new(&[f32::NAN; 40 * 70], 40, 70));
    let (a, b) = (values(5 * 7, 1), values(7 * 3, 2));
    left.pack(Matrix::new(&a, 5, 7));
    let mut right = PackedB::new(Precision::F32);
    right.pack(Matrix::new(&[f32::NAN; 90 * 70], 70, 90));
    right.pack(Matrix::new(&b, 7, 3));
    let mut out = vec![0.0; 15];
    multiply(&left, &right, &mut out);
    check_close(&out, &reference::multiply(&a, &b, [5, 7, 3]), 1e-5, "packed again");
}

#[test]
fn a_strided_matrix_is_read_where_it_lies() {
    let wide = values(9 * 50, 1);
    let narrow: Vec<f32> = wide.chunks(50).flat_map(|row| &row[20..36]).copied().collect();
    let b = values(16 * 5, 2);
    let (mut left, mut right) = (PackedA::new(Precision::F32), PackedB::new(Precision::F32));
    left.pack(Matrix::strided(&wide[20..], 9, 16, 50));
    right.pack(Matrix::new(&b, 16, 5));
    let mut out = vec![0.0; 45];
    multiply(&left, &right, &mut out);
    check_close(&out, &reference::multiply(&narrow, &b, [9, 16, 5]), 1e-5, "strided");
}

/// In both orientations, with rows that do not follow each other, blocks of the depth, and every number of rows in
/// the last tile.
#[test]
fn a_left_operand_that_is_not_packed_gives_the_same_bits() {
    let (depth, cols, stride) = (530, 37, 540);
    let (all, b) = (values(depth * stride, 1), values(depth * cols, 2));
    for path in Path::all() {
        for rows in 1..16 {
            for turned in [false, true] {
                let (height, width) = if turned { (depth, rows) } else { (rows, depth) };
                let a = all[..height * stride].to_vec();
                let rounds = LeftScratch::for_path(path).rounds();
                let cast = |value: &f32| if rounds { round_to_bf16(*value) } else { *value };
                let is_cast: Vec<f32> = a.iter().map(cast).collect();
                let matrix = |values| {
                    let matrix = Matrix::strided(values, height, width, stride);
                    if turned { matrix.transposed() } else { matrix }
                };
                let (mut left, mut right) = (PackedA::for_path(path), PackedB::for_path(path));
                left.pack(matrix(&a));
                right.pack(Matrix::new(&b, depth, cols));
                let mut expected = vec![0.0; rows * cols];
                multiply(&left, &right, &mut expected);
                for (values, is_cast) in [(&a, false), (&is_cast, true)] {
                    let mut scratch = LeftScratch::for_path(path);
                    let mut out = vec![f32::NAN; rows * 50];
                    let window = Window::new(&mut out, rows, cols, 50);
                    compute(scratch.take(matrix(values), is_cast), &right, Region::whole(window, false));
                    let out: Vec<f32> = out.chunks(50).flat_map(|row| &row[..cols]).copied().collect();
                    assert_eq!(out, expected, "{path} {rows} {turned} {is_cast}");
                }
            }
        }
    }
}

#[test]
fn epilogues_follow_the_product() {
    let shape = [31, 600, 67];
    let (a, b, bias) = (values(31 * 600, 1), values(600 * 67, 2), values(67, 3));
    for path in Path::all() {
        let (left, right) = packed(path, (&a, false), (&b, false), shape);
        let mut plain = vec![0.0; 31 * 67];
        multiply(&left, &right, &mut plain);
        let with_bias: Vec<f32> = plain.iter().enumerate().map(|(i, x)| x + bias[i % 67]).collect();
        let mut out = vec![f32::NAN; 31 * 67];
        multiply_bias(&left, &right, &bias, &mut out);
        assert_eq!(out, with_bias, "{path}");
        for form in [GeluForm::Erf, GeluForm::Tanh] {
            let (mut derivative, mut out) = (vec![f32::NAN; 31 * 67], vec![f32::NAN; 31 * 67]);
            multiply_bias_gelu(&left, &right, &bias, form, &mut derivative, &mut out);
            let (mut expected, mut gradient) = (vec![0.0; 31 * 67], vec![1.0; 31 * 67]);
            crate::gelu::forward(form, &with_bias, &mut expected);
            crate::gelu::backward(form, &with_bias, &mut gradient);
            assert_eq!((out, derivative), (expected, gradient), "{path}");
        }
        let places = |row: usize, col: usize, values: &mut [f32]| {
            values.iter_mut().enumerate().for_each(|(i, value)| *value = (row * 67 + col + i) as f32);
        };
        // What is read is fetched and never looked at.
        for read in [&[][..], &with_bias] {
            out.fill(f32::NAN);
            multiply_then(&left, &right, &mut out, read, places);
            assert!(out.iter().enumerate().all(|(i, value)| *value == i as f32), "{path}");
        }
    }
}

#[test]
#[should_panic(expected = "is read at the places of its result")]
fn what_is_read_has_the_shape_of_the_result() {
    let (mut left, mut right) = (PackedA::new(Precision::F32), PackedB::new(Precision::F32));
    left.pack(Matrix::new(&[1.0; 6], 3, 2));
    right.pack(Matrix::new(&[1.0; 8], 2, 4));
    multiply_then(&left, &right, &mut [0.0; 12], &[0.0; 11], |_, _, _| {});
}

/// Origin: by hand. bf16 has 8 significant bits; 257 lies between 256 and 258, 259 between 258 and 260.
#[test]
fn bf16_rounds_to_nearest_even() {
    for (value, expected) in [
        (1.0, 1.0),
        (257.0, 256.0),
        (259.0, 260.0),
        (257.001, 258.0),
        (-257.0, -256.0),
        (f32::MAX, f32::INFINITY),
        (f32::NEG_INFINITY, f32::NEG_INFINITY),
    ] {
        assert_eq!(round_to_bf16(value), expected, "{value}");
    }
    assert!(round_to_bf16(f32::NAN).is_nan());
    assert!(round_to_bf16(f32::from_bits(0x7f80_0001)).is_nan());
}

#[test]
fn a_path_says_whether_bf16_is_slower() {
    assert!(!Precision::F32.path().is_native_bf16());
    let path = Precision::Bf16.path();
    assert_eq!(path.to_string().contains("no faster"), !path.is_native_bf16());
}

#[test]
#[should_panic(expected = "same depth")]
fn depths_that_differ_are_refused() {
    let (mut left, mut right) = (PackedA::new(Precision::F32), PackedB::new(Precision::F32));
    left.pack(Matrix::new(&[0.0; 6], 2, 3));
    right.pack(Matrix::new(&[0.0; 6], 2, 3));
    multiply(&left, &right, &mut [0.0; 6]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn agrees_with_the_reference(
        rows in 1_usize..70, depth in 0_usize..90, cols in 1_usize..90, a_turned: bool, b_turned: bool,
    ) {
        check_all_kernels([rows, depth, cols], [a_turned, b_turned]);
    }

    #[test]
    fn maps_side_by_side_are_one_map(
        num_parts in 1_usize..4, num_out in 1_usize..70, depth in 1_usize..40, rows in 1_usize..20,
    ) {
        let (a, weights) = (values(rows * depth, 1), values(num_parts * num_out * depth, 2));
        let parts: Vec<&[f32]> = weights.chunks_exact(num_out * depth).collect();
        for path in Path::all() {
            let (mut left, mut together) = (PackedA::for_path(path), PackedB::for_path(path));
            let mut stacked = together.clone();
            left.pack(Matrix::new(&a, rows, depth));
            together.pack_maps(&parts, num_out, depth);
            stacked.pack(Matrix::new(&weights, num_parts * num_out, depth).transposed());
            let [got, expected] = [together, stacked].map(|right| {
                let mut out = vec![f32::NAN; rows * num_parts * num_out];
                multiply(&left, &right, &mut out);
                out.iter().map(|value| value.to_bits()).collect::<Vec<_>>()
            });
            prop_assert!(got == expected, "{path}");
        }
    }
}
