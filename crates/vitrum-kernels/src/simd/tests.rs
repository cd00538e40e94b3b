//! Tests of every vector operation at this machine's level, lane by lane.

use super::{Kernel, Real, Simd, Vector, run};

/// Numbers of every kind. The tests combine each with each.
fn kinds<T: Real>() -> Vec<T> {
    let infinity = T::ZERO.recip();
    let least = T::LEAST;
    let finite = [0.0, -0.0, 1.0, -1.0, 3.0, -2.5, 1e-9, 1e30].map(T::from_f64);
    let rest = [T::LOWEST, least, T::ZERO - least, infinity, T::ZERO - infinity, T::ZERO * infinity];
    finite.into_iter().chain(rest).collect()
}

/// Whether the numbers are equal including the sign of zero, or both NaN.
fn same<T: Real>(x: T, y: T) -> bool {
    let is_nan = |x: T| x.partial_cmp(&x).is_none();
    is_nan(x) && is_nan(y) || x == y && x.recip() == y.recip()
}

/// The operations that work lane by lane.
#[inline(always)]
fn operations<V: Vector>(a: V, b: V, small: V, count: V) -> [V; 9] {
    [
        a.add(b),
        a.sub(b),
        a.mul(b),
        a.div(b),
        a.sqrt(),
        a.max(b),
        a.zero_below(b, small),
        small.scale_by(count),
        small.scale_by(count).mul_add(small, small.add(small)),
    ]
}

/// Lanes of the operands: `a`, `b`, small integers, and the same integers as exponents.
struct Operations<T>([[T; 16]; 4]);

impl<T: Real> Operations<T> {
    /// # Safety
    /// The processor must have the instructions of `V`.
    #[inline(always)]
    unsafe fn from<V: Vector<Scalar = T>>(&self, lane: usize) -> Vec<[T; 16]> {
        // SAFETY: `lane` is at most 16 minus the lanes; results have space for any register.
        unsafe {
            let [a, b, small, count] = self.0.each_ref().map(|x| V::load(x.as_ptr().add(lane)));
            let store = |x: V| {
                let mut lanes = [T::ZERO; 16];
                x.store(lanes.as_mut_ptr());
                lanes
            };
            operations(a, b, small, count).map(store).to_vec()
        }
    }
}

impl<T: Real> Kernel for &Operations<T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        // SAFETY: upheld by the caller; a vector of one number needs no instructions.
        unsafe {
            let found = self.from::<T::In<S>>(0);
            for lane in 0..T::In::<S>::LANES {
                let alone = self.from::<T::One>(lane);
                for (operation, (found, alone)) in found.iter().zip(&alone).enumerate() {
                    assert!(same(found[lane], alone[0]), "operation {operation} in lane {lane}");
                }
            }
        }
    }
}

fn lanes_are_numbers_alone<T: Real>() {
    let kinds = kinds::<T>();
    for shift in 0..kinds.len() {
        for start in 0..kinds.len() {
            let a = std::array::from_fn(|i| kinds[(start + i) % kinds.len()]);
            let b = std::array::from_fn(|i| kinds[(start + i + shift) % kinds.len()]);
            let small = std::array::from_fn(|i| T::from_f64(i as f64 - 7.0));
            run(&Operations([a, b, small, small.map(|x| T::ROUND + x)]));
        }
    }
}

#[test]
fn a_lane_gives_what_its_number_gives_alone() {
    lanes_are_numbers_alone::<f32>();
    lanes_are_numbers_alone::<f64>();
}

/// The operations that move numbers between lanes.
struct Moves<T>(std::marker::PhantomData<T>);

impl<T: Real> Kernel for Moves<T> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<S: Simd>(self) {
        let lanes = T::In::<S>::LANES;
        let number = |i: usize| T::from_f64(i as f64 + 1.0);
        let from: [T; 256] = std::array::from_fn(number);
        let mut to = [T::ZERO; 256];
        // SAFETY: upheld by the caller; no register has more than 16 lanes.
        unsafe {
            let (a, b) = (T::In::<S>::load(from.as_ptr()), T::In::<S>::load(from[16..].as_ptr()));
            assert!(a.sum() == T::from_f64((lanes * (lanes + 1) / 2) as f64));
            let (low, high) = a.interleave(b);
            low.store(to.as_mut_ptr());
            high.store(to[lanes..].as_mut_ptr());
            for i in 0..lanes {
                assert!(to[2 * i] == from[i] && to[2 * i + 1] == from[16 + i]);
            }
            for rows in 0..=lanes {
                T::In::<S>::transpose(from.as_ptr(), 16, rows, to.as_mut_ptr(), 16);
                for i in 0..lanes * lanes {
                    let (row, column) = (i / lanes, i % lanes);
                    let expected = if column < rows { from[column * 16 + row] } else { T::ZERO };
                    assert!(to[row * 16 + column] == expected, "{rows} rows");
                }
                // Rows in another order, from number 1 on; the rest of `to` stays.
                let start = |row: usize| (rows - row) % 15 * 16;
                let lines: Vec<*const T> = (0..rows).map(|row| from[start(row)..].as_ptr()).collect();
                for columns in 0..=lanes {
                    let mut to = [T::ZERO; 256];
                    T::In::<S>::transpose_lines(&lines, 1, columns, to.as_mut_ptr(), 16);
                    for (i, &found) in to[..16 * lanes].iter().enumerate() {
                        let (column, row) = (i / 16, i % 16);
                        let is_there = row < rows && column < columns;
                        let expected = if is_there { from[start(row) + 1 + column] } else { T::ZERO };
                        assert!(found == expected, "{rows} rows, {columns} columns");
                    }
                }
            }
        }
    }
}

#[test]
fn numbers_move_between_lanes_as_promised() {
    run(Moves::<f32>(std::marker::PhantomData));
    run(Moves::<f64>(std::marker::PhantomData));
}
