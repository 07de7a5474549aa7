//! What Python's operators and functions make of numbers that are known within bounds.
//!
//! A Python value is a whole number of any size or a double, and which of the two it is decides what happens to it. A [`Number`] therefore keeps both
//! possibilities apart. Whole numbers are exact; beyond ±2^100 nothing is said about them ([`Part::Any`]), since a bound that stops growing would be wrong once something is subtracted from it.
//! Doubles are computed at the ends of the interval by the same IEEE operations that Python uses. These round monotonically, so that what they give for any value between the ends lies between
//! what they give for the ends; where Python calls a library function that may round otherwise, the result is widened. An infinity or a NaN is [`Part::Any`].

use super::interval::{FloatInterval, Interval, ceil, floor};

/// Beyond this nothing is said about a whole number.
const INT_MAX: i128 = 1 << 100;
/// The largest exponent that is tried: 2^100 is the most that is kept.
const EXPONENT_MAX: i128 = 100;
/// Every whole number up to here is a double.
const EXACT: f64 = 9_007_199_254_740_992.0;
/// `round(x, n)` is followed for this many digits.
const DIGITS_MAX: i128 = 15;
/// A library function is off by a few units in the last place at most; this is far more.
const LIBRARY_ERROR: f64 = 1e-12;

/// What is known of one of the two kinds of value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Part<T> {
    /// It is not of this kind.
    Never,
    /// It lies within.
    Within(T),
    /// It may be anything of this kind.
    Any,
}

impl<T: Copy> Part<T> {
    fn hull(self, other: Self, join: impl Fn(T, T) -> T) -> Self {
        match (self, other) {
            (Self::Never, part) | (part, Self::Never) => part,
            (Self::Within(a), Self::Within(b)) => Self::Within(join(a, b)),
            _ => Self::Any,
        }
    }

    fn then<U>(self, apply: impl Fn(T) -> Part<U>) -> Part<U> {
        match self {
            Self::Never => Part::Never,
            Self::Within(value) => apply(value),
            Self::Any => Part::Any,
        }
    }
}

/// A Python number: a whole one, a double, or one of the two.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Number {
    pub(super) int: Part<Interval>,
    pub(super) float: Part<FloatInterval>,
}

/// Why an operation gives nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArithmeticError {
    /// A power of whole numbers that may have millions of digits: computing it stops a ComfyUI.
    #[error("a power of whole numbers may be too large to be computed")]
    TooLargePower,
    /// For no value does the operation give one.
    #[error("divides by zero, or takes the root or logarithm of a number that has none")]
    NoResult,
}

type Outcome = Result<Number, ArithmeticError>;

/// Whole numbers in bounds that are kept exactly.
fn int_part(lo: Option<i128>, hi: Option<i128>) -> Part<Interval> {
    match (lo, hi) {
        (Some(lo), Some(hi)) if lo >= -INT_MAX && hi <= INT_MAX => Part::Within(Interval { lo, hi }),
        _ => Part::Any,
    }
}

/// Doubles in finite bounds. Beyond 2^53 they are widened: a whole number that Python still keeps exactly may hide behind a FLOAT there.
fn float_part(lo: f64, hi: f64) -> Part<FloatInterval> {
    let lo = if lo.abs() > EXACT { lo.next_down() } else { lo };
    let hi = if hi.abs() > EXACT { hi.next_up() } else { hi };
    if lo.is_finite() && hi.is_finite() { Part::Within(FloatInterval { lo, hi }) } else { Part::Any }
}

/// The same, for a result that a library function rounds as it likes.
fn library_part(lo: f64, hi: f64) -> Part<FloatInterval> {
    let slack = |value: f64| (value.abs() * LIBRARY_ERROR).max(f64::MIN_POSITIVE);
    float_part(lo - slack(lo), hi + slack(hi))
}

/// The smallest and largest of some doubles; a NaN among them makes the result one.
fn ends(values: [f64; 4]) -> (f64, f64) {
    let worst = values.iter().any(|value| value.is_nan());
    if worst {
        return (f64::NAN, f64::NAN);
    }
    (values.into_iter().fold(f64::INFINITY, f64::min), values.into_iter().fold(f64::NEG_INFINITY, f64::max))
}

/// Both ends of an operation that is monotone in each of its arguments.
fn corners(a: FloatInterval, b: FloatInterval, apply: impl Fn(f64, f64) -> f64) -> (f64, f64) {
    ends([apply(a.lo, b.lo), apply(a.lo, b.hi), apply(a.hi, b.lo), apply(a.hi, b.hi)])
}

fn int_corners(a: Interval, b: Interval, apply: impl Fn(i128, i128) -> Option<i128>) -> Part<Interval> {
    let all: Option<Vec<i128>> =
        [(a.lo, b.lo), (a.lo, b.hi), (a.hi, b.lo), (a.hi, b.hi)].into_iter().map(|(a, b)| apply(a, b)).collect();
    let ends = all.as_deref().map(|all| (all.iter().copied().min(), all.iter().copied().max()));
    ends.map_or(Part::Any, |(lo, hi)| int_part(lo, hi))
}

impl Number {
    /// Nothing is known.
    pub(super) const ANY: Self = Self { int: Part::Any, float: Part::Any };

    pub(super) fn int(interval: Interval) -> Self {
        Self { int: int_part(Some(interval.lo), Some(interval.hi)), float: Part::Never }
    }

    pub(super) fn float(interval: FloatInterval) -> Self {
        Self { int: Part::Never, float: float_part(interval.lo, interval.hi) }
    }

    fn of_int(int: Part<Interval>) -> Self {
        Self { int, float: Part::Never }
    }

    fn of_float(float: Part<FloatInterval>) -> Self {
        Self { int: Part::Never, float }
    }

    /// A truth value, which is 0 or 1 in arithmetic.
    pub(super) fn truth(known: Option<bool>) -> Self {
        Self::int(known.map_or(Interval { lo: 0, hi: 1 }, |known| Interval::exactly(i128::from(known))))
    }

    /// Either number.
    pub(super) fn hull(self, other: Self) -> Self {
        Self { int: self.int.hull(other.int, Interval::hull), float: self.float.hull(other.float, FloatInterval::hull) }
    }

    /// As `float(x)`.
    pub(super) fn as_float(self) -> Part<FloatInterval> {
        let of_int = self.int.then(|int| {
            let float = FloatInterval::from(int);
            float_part(float.lo, float.hi)
        });
        of_int.hull(self.float, FloatInterval::hull)
    }

    /// Whether it counts as true.
    pub(super) fn is_true(self) -> Option<bool> {
        let Part::Within(all) = self.as_float() else {
            return None;
        };
        match (all.lo, all.hi) {
            (lo, hi) if lo > 0.0 || hi < 0.0 => Some(true),
            (lo, hi) if lo == 0.0 && hi == 0.0 => Some(false),
            _ => None,
        }
    }

    /// Applies an operation of whole numbers where both are whole, and one of doubles where one of them is a double.
    fn binary(
        self,
        other: Self,
        ints: impl Fn(Interval, Interval) -> Part<Interval>,
        floats: impl Fn(FloatInterval, FloatInterval) -> Part<FloatInterval>,
    ) -> Self {
        let int = match (self.int, other.int) {
            (Part::Never, _) | (_, Part::Never) => Part::Never,
            (Part::Within(a), Part::Within(b)) => ints(a, b),
            _ => Part::Any,
        };
        let (left, right) = (self.as_float(), other.as_float());
        let float = match (self.float, other.float) {
            (Part::Never, Part::Never) => Part::Never,
            _ => left.then(|a| right.then(|b| floats(a, b))),
        };
        Self { int, float }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let floats = |a: FloatInterval, b: FloatInterval| float_part(a.lo + b.lo, a.hi + b.hi);
        self.binary(other, |a, b| int_part(a.lo.checked_add(b.lo), a.hi.checked_add(b.hi)), floats)
    }

    pub(super) fn minus(self, other: Self) -> Self {
        self.plus(other.negated())
    }

    pub(super) fn times(self, other: Self) -> Self {
        let floats = |a, b| {
            let (lo, hi) = corners(a, b, |a, b| a * b);
            float_part(lo, hi)
        };
        self.binary(other, |a, b| int_corners(a, b, i128::checked_mul), floats)
    }

    /// `a / b`, a double always.
    pub(super) fn over(self, other: Self) -> Outcome {
        let (left, right) = (self.as_float(), other.as_float());
        if right == Part::Within(FloatInterval::exactly(0.0)) {
            return Err(ArithmeticError::NoResult);
        }
        // Whole numbers that no double holds are divided exactly by Python: the ends are widened by what rounding them cost.
        let divided = |a: FloatInterval, b: FloatInterval| {
            let (lo, hi) = corners(a, b, |a, b| a / b);
            let exact = [a.lo, a.hi, b.lo, b.hi].iter().all(|end| end.abs() <= EXACT);
            if exact { float_part(lo, hi) } else { library_part(lo, hi) }
        };
        let without_zero = match other.int {
            // The whole numbers around zero are ±1 at least, and zero itself ends in an error.
            Part::Within(b) if other.float == Part::Never && b.lo <= 0 && b.hi >= 0 => {
                let below = (b.lo < 0).then(|| FloatInterval::from(Interval { lo: b.lo, hi: -1 }));
                let above = (b.hi > 0).then(|| FloatInterval::from(Interval { lo: 1, hi: b.hi }));
                let parts = [below, above].into_iter().flatten().map(|b| left.then(|a| divided(a, b)));
                parts.fold(Part::Never, |all, part| all.hull(part, FloatInterval::hull))
            }
            _ => left.then(|a| right.then(|b| if b.lo <= 0.0 && b.hi >= 0.0 { Part::Any } else { divided(a, b) })),
        };
        Ok(Self::of_float(without_zero))
    }

    /// `a // b`: rounded down.
    pub(super) fn floor_over(self, other: Self) -> Outcome {
        let exact = self.over(other)?;
        let int = match (self.int, other.int) {
            (Part::Never, _) | (_, Part::Never) => Part::Never,
            (Part::Within(a), Part::Within(b)) => {
                let below = (b.lo < 0).then(|| Interval { lo: b.lo, hi: b.hi.min(-1) });
                let above = (b.hi > 0).then(|| Interval { lo: b.lo.max(1), hi: b.hi });
                let parts = [below, above].into_iter().flatten().map(|b| int_corners(a, b, floor_quotient));
                parts.fold(Part::Never, |all, part| all.hull(part, Interval::hull))
            }
            _ => Part::Any,
        };
        let float = match (self.float, other.float) {
            (Part::Never, Part::Never) => Part::Never,
            // Python takes the remainder first, which may move the quotient by one.
            _ => exact.float.then(|all| float_part(all.lo.floor() - 1.0, all.hi.ceil() + 1.0)),
        };
        Ok(Self { int, float })
    }

    /// `a % b`: has the sign of `b`.
    pub(super) fn modulo(self, other: Self) -> Outcome {
        if other.as_float() == Part::Within(FloatInterval::exactly(0.0)) {
            return Err(ArithmeticError::NoResult);
        }
        let ints = |a: Interval, b: Interval| {
            if a.lo >= 0 && a.hi < b.lo {
                return Part::Within(a);
            }
            let hi = if a.lo >= 0 && b.lo >= 0 { a.hi.min(b.hi - 1) } else { (b.hi - 1).max(0) };
            int_part(Some((b.lo + 1).min(0)), Some(hi.max(0)))
        };
        let floats = |a: FloatInterval, b: FloatInterval| {
            if a.lo >= 0.0 && a.hi < b.lo {
                return Part::Within(a);
            }
            float_part(b.lo.min(0.0), b.hi.max(0.0))
        };
        Ok(self.binary(other, ints, floats))
    }

    /// `a ** b`.
    ///
    /// # Errors
    /// A power of whole numbers that may be beyond 2^100.
    pub(super) fn power(self, other: Self) -> Outcome {
        let (int, fraction) = match (self.int, other.int) {
            (Part::Never, _) | (_, Part::Never) => (Part::Never, Part::Never),
            (Part::Within(base), Part::Within(exponent)) => int_power(base, exponent)?,
            _ => return Err(ArithmeticError::TooLargePower),
        };
        let float = match (self.float, other.float) {
            (Part::Never, Part::Never) => Part::Never,
            _ => self.as_float().then(|base| other.as_float().then(|exponent| float_power(base, exponent))),
        };
        Ok(Self { int, float: fraction.hull(float, FloatInterval::hull) })
    }

    pub(super) fn negated(self) -> Self {
        Self {
            int: self.int.then(|int| Part::Within(Interval { lo: -int.hi, hi: -int.lo })),
            float: self.float.then(|float| Part::Within(FloatInterval { lo: -float.hi, hi: -float.lo })),
        }
    }

    pub(super) fn absolute(self) -> Self {
        let int = |int: Interval| {
            let least = if int.lo <= 0 && int.hi >= 0 { 0 } else { int.lo.abs().min(int.hi.abs()) };
            Part::Within(Interval { lo: least, hi: int.lo.abs().max(int.hi.abs()) })
        };
        let float = |float: FloatInterval| {
            let crosses = float.lo <= 0.0 && float.hi >= 0.0;
            let least = if crosses { 0.0 } else { float.lo.abs().min(float.hi.abs()) };
            Part::Within(FloatInterval { lo: least, hi: float.lo.abs().max(float.hi.abs()) })
        };
        Self { int: self.int.then(int), float: self.float.then(float) }
    }

    /// The smaller one. Python gives back one of the two as it is, so that either kind may come out.
    pub(super) fn least(self, other: Self) -> Self {
        self.chosen(other, |a, b| FloatInterval { lo: a.lo.min(b.lo), hi: a.hi.min(b.hi) })
    }

    /// The larger one.
    pub(super) fn greatest(self, other: Self) -> Self {
        self.chosen(other, |a, b| FloatInterval { lo: a.lo.max(b.lo), hi: a.hi.max(b.hi) })
    }

    fn chosen(self, other: Self, choose: impl Fn(FloatInterval, FloatInterval) -> FloatInterval) -> Self {
        let either = self.hull(other);
        let (Part::Within(a), Part::Within(b)) = (self.as_float(), other.as_float()) else {
            return either;
        };
        let bounds = choose(a, b);
        // Neither kind can lie beyond the bounds of the chosen value.
        Self {
            int: either.int.then(|int| {
                let (lo, hi) = (int.lo.max(floor(bounds.lo)), int.hi.min(ceil(bounds.hi)));
                if lo <= hi { Part::Within(Interval { lo, hi }) } else { Part::Never }
            }),
            float: either.float.then(|float| {
                let (lo, hi) = (float.lo.max(bounds.lo), float.hi.min(bounds.hi));
                if lo <= hi { Part::Within(FloatInterval { lo, hi }) } else { Part::Never }
            }),
        }
    }

    /// A whole number made of a double by a monotone rounding, such as `int`, `floor`, `ceil` and `round`.
    pub(super) fn whole(self, round: fn(f64) -> f64) -> Self {
        let whole = |float: FloatInterval| {
            let end = |value: f64| {
                let value = round(value);
                (value.abs() < 1e30).then(|| floor(value))
            };
            int_part(end(float.lo), end(float.hi))
        };
        Self::of_int(self.int.hull(self.float.then(whole), Interval::hull))
    }

    /// `round(x, digits)`.
    pub(super) fn rounded_to(self, digits: Self) -> Self {
        let Number { int: Part::Within(digits), float: Part::Never } = digits else {
            return Self::ANY;
        };
        if digits.lo < -DIGITS_MAX || digits.hi > DIGITS_MAX {
            return Self::ANY;
        }
        // Half of the coarsest place that is kept; generously the whole of it.
        let places = u32::try_from((-digits.lo).max(0)).unwrap_or(0);
        let coarse = 10_i128.saturating_pow(places);
        let slack = FloatInterval::from(Interval::exactly(coarse)).hi;
        Self {
            int: self.int.then(|int| {
                let slack = if digits.lo >= 0 { 0 } else { coarse };
                int_part(int.lo.checked_sub(slack), int.hi.checked_add(slack))
            }),
            float: self.float.then(|float| {
                let slack = if digits.lo >= 1 { 0.1 } else { slack };
                float_part(float.lo - slack, float.hi + slack)
            }),
        }
    }

    /// The square root; of negative numbers there is none.
    pub(super) fn root(self) -> Outcome {
        let all = self.as_float();
        match all {
            Part::Within(all) if all.hi < 0.0 => Err(ArithmeticError::NoResult),
            _ => Ok(Self::of_float(all.then(|all| float_part(all.lo.max(0.0).sqrt(), all.hi.sqrt())))),
        }
    }

    /// A logarithm by one of the library's functions; of zero and negative numbers there is none.
    pub(super) fn logarithm(self, log: fn(f64) -> f64) -> Outcome {
        let all = self.as_float();
        match all {
            Part::Within(all) if all.hi <= 0.0 => Err(ArithmeticError::NoResult),
            Part::Within(all) if all.lo <= 0.0 => Ok(Self::of_float(Part::Any)),
            _ => Ok(Self::of_float(all.then(|all| library_part(log(all.lo), log(all.hi))))),
        }
    }

    /// `sin` and `cos`.
    pub(super) fn wave() -> Self {
        Self::float(FloatInterval { lo: -1.0, hi: 1.0 })
    }

    pub(super) fn to_float(self) -> Self {
        Self::of_float(self.as_float())
    }

    /// Whether `self < other`, where that is certain.
    pub(super) fn is_less(self, other: Self) -> Option<bool> {
        let (Part::Within(a), Part::Within(b)) = (self.as_float(), other.as_float()) else {
            return None;
        };
        // Beyond 2^53 the ends are widened and prove nothing by being equal.
        match (a.hi < b.lo, a.lo >= b.hi && a.lo.abs() <= EXACT) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }

    /// Whether `self == other`, where that is certain.
    pub(super) fn is_equal(self, other: Self) -> Option<bool> {
        let (Part::Within(a), Part::Within(b)) = (self.as_float(), other.as_float()) else {
            return None;
        };
        if a.hi < b.lo || b.hi < a.lo {
            return Some(false);
        }
        let same = a.lo == a.hi && b.lo == b.hi && a.lo == b.lo && a.lo.abs() <= EXACT;
        same.then_some(true)
    }
}

fn floor_quotient(a: i128, b: i128) -> Option<i128> {
    let quotient = a.checked_div(b)?;
    let inexact = a.checked_rem(b)? != 0;
    Some(if inexact && (a < 0) != (b < 0) { quotient - 1 } else { quotient })
}

/// A power of whole numbers: a whole number for exponents from 0 on, a fraction of 1 below.
fn int_power(base: Interval, exponent: Interval) -> Result<(Part<Interval>, Part<FloatInterval>), ArithmeticError> {
    let fraction = if exponent.lo < 0 {
        // 0 has no such power, and of all others it is at most 1 in size.
        Part::Within(FloatInterval { lo: if base.lo < 0 { -1.0 } else { 0.0 }, hi: 1.0 })
    } else {
        Part::Never
    };
    if exponent.hi < 0 {
        return Ok((Part::Never, fraction));
    }
    let least = exponent.lo.max(0);
    let raised = |base: i128, exponent: i128| -> Result<i128, ArithmeticError> {
        let small = base.abs() <= 1;
        let exponent = if small { exponent.min(2 + exponent % 2) } else { exponent };
        let fits = u32::try_from(exponent).ok().filter(|_| exponent <= EXPONENT_MAX);
        let power = fits.and_then(|exponent| base.checked_pow(exponent)).filter(|power| power.abs() <= INT_MAX);
        power.ok_or(ArithmeticError::TooLargePower)
    };
    let int = if base.lo == base.hi && least == exponent.hi {
        Interval::exactly(raised(base.lo, least)?)
    } else if base.lo >= 1 {
        Interval { lo: raised(base.lo, least)?, hi: raised(base.hi, exponent.hi)? }
    } else {
        let size = raised(base.lo.abs().max(base.hi.abs()), exponent.hi)?.max(1);
        Interval { lo: if base.lo < 0 { -size } else { 0 }, hi: size }
    };
    Ok((Part::Within(int), fraction))
}

/// A power of doubles. It is monotone in the base and in the exponent, each way, as long as no base is negative.
fn float_power(base: FloatInterval, exponent: FloatInterval) -> Part<FloatInterval> {
    if base.lo < 0.0 || (base.lo == 0.0 && exponent.lo < 0.0) {
        return Part::Any;
    }
    let (lo, hi) = corners(base, exponent, f64::powf);
    match library_part(lo, hi) {
        Part::Within(found) => Part::Within(FloatInterval { lo: found.lo.max(0.0), hi: found.hi }),
        part => part,
    }
}

#[cfg(test)]
mod tests;
