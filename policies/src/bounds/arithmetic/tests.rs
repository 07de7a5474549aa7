use super::*;

/// A small generator of test numbers: the same ones in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn int(&mut self, lo: i128, hi: i128) -> i128 {
        lo + i128::from(self.roll()) % (hi - lo + 1)
    }

    fn interval(&mut self, size: i128) -> Interval {
        Interval::between(self.int(-size, size), self.int(-size, size))
    }

    fn double(&mut self) -> f64 {
        // Quarters, and thirds, which no double holds.
        let whole = self.int(-40, 40) as f64;
        if self.roll().is_multiple_of(2) { whole / 4.0 } else { whole / 3.0 }
    }
}

fn holds_int(number: Number, value: i128) -> bool {
    match number.int {
        Part::Within(found) => found.lo <= value && value <= found.hi,
        Part::Any => true,
        Part::Never => false,
    }
}

fn holds_float(number: Number, value: f64) -> bool {
    match number.float {
        Part::Within(found) => found.lo <= value && value <= found.hi,
        Part::Any => true,
        Part::Never => false,
    }
}

fn python_floor_over(a: i128, b: i128) -> i128 {
    (a as f64 / b as f64).floor() as i128
}

#[test]
fn every_result_for_values_within_the_bounds_is_within_the_bounds_of_the_result_for_whole_numbers() {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for _ in 0..20_000 {
        let (left, right) = (dice.interval(12), dice.interval(6));
        let (a, b) = (dice.int(left.lo, left.hi), dice.int(right.lo, right.hi));
        let (x, y) = (Number::int(left), Number::int(right));
        let case = format!("{a} in {left:?}, {b} in {right:?}");
        assert!(holds_int(x.plus(y), a + b), "{case}");
        assert!(holds_int(x.minus(y), a - b), "{case}");
        assert!(holds_int(x.times(y), a * b), "{case}");
        assert!(holds_int(x.negated(), -a), "{case}");
        assert!(holds_int(x.absolute(), a.abs()), "{case}");
        assert!(holds_int(x.least(y), a.min(b)), "{case}");
        assert!(holds_int(x.greatest(y), a.max(b)), "{case}");
        assert!(x.is_less(y).is_none_or(|known| known == (a < b)), "{case}");
        assert!(x.is_equal(y).is_none_or(|known| known == (a == b)), "{case}");
        assert!(x.is_true().is_none_or(|known| known == (a != 0)), "{case}");
        if b != 0 {
            assert!(holds_float(x.over(y).unwrap(), a as f64 / b as f64), "{case}");
            assert!(holds_int(x.floor_over(y).unwrap(), python_floor_over(a, b)), "{case}");
            assert!(holds_int(x.modulo(y).unwrap(), a - b * python_floor_over(a, b)), "{case}");
        }
        let power = x.power(y).unwrap();
        if b >= 0 {
            assert!(holds_int(power, a.pow(u32::try_from(b).unwrap())), "{case}");
        } else if a != 0 {
            assert!(holds_float(power, (a as f64).powi(i32::try_from(b).unwrap())), "{case}");
        }
    }
}

#[test]
fn every_result_for_values_within_the_bounds_is_within_the_bounds_of_the_result_for_doubles() {
    let mut dice = Dice(0x1234_5678_9abc_def1);
    for _ in 0..20_000 {
        let mut interval = || {
            let (a, b, share) = (dice.double(), dice.double(), (dice.roll() % 9) as f64 / 8.0);
            let all = FloatInterval { lo: a.min(b), hi: a.max(b) };
            ((all.lo + (all.hi - all.lo) * share).clamp(all.lo, all.hi), all)
        };
        let ((a, left), (b, right)) = (interval(), interval());
        let (x, y) = (Number::float(left), Number::float(right));
        let case = format!("{a} in {left:?}, {b} in {right:?}");
        assert!(holds_float(x.plus(y), a + b), "{case}");
        assert!(holds_float(x.minus(y), a - b), "{case}");
        assert!(holds_float(x.times(y), a * b), "{case}");
        assert!(holds_float(x.least(y), a.min(b)) && holds_float(x.greatest(y), a.max(b)), "{case}");
        assert!(holds_int(x.whole(f64::floor), a.floor() as i128), "{case}");
        assert!(holds_int(x.whole(f64::round_ties_even), a.round_ties_even() as i128), "{case}");
        assert!(holds_int(x.whole(f64::trunc), a.trunc() as i128), "{case}");
        assert!(holds_float(x.rounded_to(Number::int(Interval::exactly(1))), (a * 10.0).round() / 10.0), "{case}");
        if b != 0.0 {
            assert!(holds_float(x.over(y).unwrap(), a / b), "{case}");
            let remainder = a - b * (a / b).floor();
            assert!(holds_float(x.floor_over(y).unwrap(), (a / b).floor()), "{case}");
            let near = [remainder, remainder.next_up(), remainder.next_down(), remainder - b, remainder + b];
            assert!(near.iter().any(|value| holds_float(x.modulo(y).unwrap(), *value)), "{case}");
        }
        if a >= 0.0 && (a > 0.0 || b > 0.0) {
            assert!(holds_float(x.power(y).unwrap(), a.powf(b)), "{case}");
            assert!(holds_float(x.root().unwrap(), a.sqrt()), "{case}");
        }
        if a > 0.0 {
            assert!(holds_float(x.logarithm(f64::ln).unwrap(), a.ln()), "{case}");
        }
    }
}

#[test]
fn exact_numbers_stay_exact() {
    let int = |value| Number::int(Interval::exactly(value));
    assert_eq!(int(7).floor_over(int(-2)).unwrap().int, Part::Within(Interval::exactly(-4)));
    assert_eq!(int(-7).modulo(int(3)).unwrap().int, Part::Within(Interval { lo: 0, hi: 2 }));
    assert_eq!(int(1280).over(int(2)).unwrap().float, Part::Within(FloatInterval::exactly(640.0)));
    assert_eq!(int(-1).power(int(101)).unwrap().int, Part::Within(Interval::exactly(-1)));
    assert_eq!(int(2).power(int(100)).unwrap().int, Part::Within(Interval::exactly(1 << 100)));
}

#[test]
fn beyond_what_is_kept_nothing_is_said() {
    let most = Number::int(Interval::exactly(INT_MAX));
    assert_eq!(most.plus(Number::int(Interval::exactly(1))).int, Part::Any);
    // Nothing is said of a difference either: a bound that stopped growing would be wrong here.
    assert_eq!(most.times(most).minus(most).int, Part::Any);
    let large = Number::float(FloatInterval::exactly(1e300));
    assert_eq!(large.times(large).float, Part::Any);
    assert_eq!(large.over(Number::float(FloatInterval { lo: -1.0, hi: 1.0 })).unwrap().float, Part::Any);
}

#[test]
fn a_power_that_would_stop_a_comfyui_is_refused_and_one_below_is_not() {
    let int = |value| Number::int(Interval::exactly(value));
    assert!(int(2).power(int(100)).is_ok());
    assert_eq!(int(2).power(int(101)), Err(ArithmeticError::TooLargePower));
    assert_eq!(Number::ANY.power(int(2)), Err(ArithmeticError::TooLargePower));
}
