//! Interval arithmetic that never under-approximates.

/// Whole numbers from `lo` to `hi`, both included. Arithmetic saturates at ±2^100, far beyond every cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// Smallest value.
    pub lo: i128,
    /// Largest value.
    pub hi: i128,
}

/// Beyond this every number is only "too large".
const SATURATION: i128 = 1 << 100;

/// Every whole number up to here is a double.
const EXACT_IN_F64: i128 = 1 << 53;

fn saturate(value: i128) -> i128 {
    value.clamp(-SATURATION, SATURATION)
}

impl Interval {
    /// Exactly `value`.
    pub fn exactly(value: i128) -> Self {
        Self { lo: saturate(value), hi: saturate(value) }
    }

    /// From `lo` to `hi`; swapped if need be.
    pub fn between(lo: i128, hi: i128) -> Self {
        Self { lo: saturate(lo.min(hi)), hi: saturate(lo.max(hi)) }
    }

    /// The smallest interval that holds both.
    pub fn hull(self, other: Self) -> Self {
        Self { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    /// Both values cut to `lo ..= hi`.
    pub fn clamped(self, lo: i128, hi: i128) -> Self {
        Self { lo: self.lo.clamp(lo, hi.max(lo)), hi: self.hi.clamp(lo, hi.max(lo)) }
    }

    /// Sums.
    pub fn plus(self, other: Self) -> Self {
        Self { lo: saturate(self.lo.saturating_add(other.lo)), hi: saturate(self.hi.saturating_add(other.hi)) }
    }

    /// Products of intervals without negative numbers.
    pub fn times(self, other: Self) -> Self {
        let product = |a: i128, b: i128| saturate(a.max(0).saturating_mul(b.max(0)));
        Self { lo: product(self.lo, other.lo), hi: product(self.hi, other.hi) }
    }

    /// The value of the larger one of each pair.
    pub fn max(self, other: Self) -> Self {
        Self { lo: self.lo.max(other.lo), hi: self.hi.max(other.hi) }
    }

    /// Each value times each factor, rounded in whatever way, at least 1.
    pub fn scaled(self, factor: FloatInterval) -> Self {
        let of = FloatInterval::from(self).times(factor);
        Self { lo: floor(of.lo).max(1), hi: ceil(of.hi).max(1) }
    }
}

/// Finite doubles from `lo` to `hi`, both included; every operation rounds outward unless its result is exact.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FloatInterval {
    /// Smallest value.
    pub lo: f64,
    /// Largest value.
    pub hi: f64,
}

impl FloatInterval {
    /// Exactly `value`.
    pub fn exactly(value: f64) -> Self {
        Self { lo: value, hi: value }
    }

    /// The smallest interval that holds both.
    pub fn hull(self, other: Self) -> Self {
        Self { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    /// Both values cut to `lo ..= hi`.
    pub fn clamped(self, lo: f64, hi: f64) -> Self {
        Self { lo: self.lo.max(lo).min(hi), hi: self.hi.max(lo).min(hi) }
    }

    /// Products of intervals without negative numbers.
    pub fn times(self, other: Self) -> Self {
        let (lo, hi) = ((self.lo.max(0.0), other.lo.max(0.0)), (self.hi.max(0.0), other.hi.max(0.0)));
        // The fused product is exact: it tells whether the rounded one was.
        let error = |(a, b): (f64, f64)| a.mul_add(b, -(a * b));
        Self { lo: down_if(lo.0 * lo.1, error(lo)), hi: up_if(hi.0 * hi.1, error(hi)) }
    }

    /// Quotients of intervals without negative numbers; by zero gives infinity.
    pub fn over(self, other: Self) -> Self {
        let quotient = |a: f64, b: f64| if b > 0.0 { a.max(0.0) / b } else { f64::INFINITY };
        let (lo, hi) = (quotient(self.lo, other.hi), quotient(self.hi, other.lo));
        let error = |quotient: f64, a: f64, b: f64| quotient.mul_add(b, -a.max(0.0));
        Self { lo: down_if(lo, error(lo, self.lo, other.hi)), hi: up_if(hi, error(hi, self.hi, other.lo)) }
    }

    /// Square roots.
    pub fn sqrt(self) -> Self {
        let error = |square: f64| square.sqrt().mul_add(square.sqrt(), -square);
        let (lo, hi) = (self.lo.max(0.0), self.hi.max(0.0));
        Self { lo: down_if(lo.sqrt(), error(lo)), hi: up_if(hi.sqrt(), error(hi)) }
    }
}

impl From<Interval> for FloatInterval {
    #[expect(clippy::cast_precision_loss, reason = "rounded outward after the cast")]
    fn from(value: Interval) -> Self {
        // Of whole numbers of 64 bits a processor makes floats itself.
        let cast = |end: i128| i64::try_from(end).map_or(end as f64, |end| end as f64);
        let exact = |end: i128| (-EXACT_IN_F64..=EXACT_IN_F64).contains(&end);
        Self {
            lo: if exact(value.lo) { cast(value.lo) } else { down(cast(value.lo)) },
            hi: if exact(value.hi) { cast(value.hi) } else { up(cast(value.hi)) },
        }
    }
}

/// The next double below, unless the operation made no rounding error. An error that is not a number is one.
fn down_if(value: f64, error: f64) -> f64 {
    if error == 0.0 { value } else { down(value) }
}

/// The next double above, unless the operation made no rounding error.
fn up_if(value: f64, error: f64) -> f64 {
    if error == 0.0 { value } else { up(value) }
}

fn down(value: f64) -> f64 {
    value.next_down()
}

fn up(value: f64) -> f64 {
    value.next_up()
}

/// The largest whole number not above `value`.
#[expect(clippy::cast_possible_truncation, reason = "a cast from f64 saturates, and so do we")]
pub fn floor(value: f64) -> i128 {
    saturate(value.floor() as i128)
}

/// The smallest whole number not below `value`.
#[expect(clippy::cast_possible_truncation, reason = "a cast from f64 saturates, and so do we")]
pub fn ceil(value: f64) -> i128 {
    saturate(value.ceil() as i128)
}
