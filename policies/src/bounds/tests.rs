//! Intervals against plain numbers, and numbers through links.

use super::interval::{FloatInterval, Interval, ceil, floor};
use super::*;
use crate::{Policy, parse};

/// Every pair of small intervals against every value in them.
#[test]
fn interval_arithmetic_holds_every_concrete_value() {
    let ends = [-3i128, 0, 1, 2, 7];
    let count = ends.len();
    for n in 0..count.pow(4) {
        let end = |place: u32| ends[n / count.pow(place) % count];
        let (a, b, c, d) = (end(0), end(1), end(2), end(3));
        let (left, right) = (Interval::between(a, b), Interval::between(c, d));
        for x in left.lo..=left.hi {
            for y in right.lo..=right.hi {
                let within = |interval: Interval, value: i128| interval.lo <= value && value <= interval.hi;
                assert!(within(left.plus(right), x + y));
                assert!(within(left.max(right), x.max(y)));
                assert!(within(left.hull(right), x) && within(left.hull(right), y));
                assert!(within(left.times(right), x.max(0) * y.max(0)));
                let (left, right) = (FloatInterval::from(left), FloatInterval::from(right));
                if x > 0 && y > 0 {
                    let quotient = x as f64 / y as f64;
                    assert!(left.over(right).lo <= quotient && quotient <= left.over(right).hi);
                    assert!(left.sqrt().lo <= (x as f64).sqrt() && (x as f64).sqrt() <= left.sqrt().hi);
                }
            }
        }
    }
}

#[test]
fn huge_numbers_saturate_instead_of_wrapping() {
    let huge = Interval::exactly(i128::MAX);
    assert_eq!(huge.times(huge), huge.plus(huge));
    assert!(huge.hi > i128::from(u64::MAX));
    assert_eq!((floor(f64::INFINITY), ceil(f64::NEG_INFINITY)), (huge.hi, -huge.hi));
}

fn value_of(nodes: &str, id: &str) -> Value {
    let body = format!("{{\"prompt\":{{{nodes}}}}}");
    let parsed = parse(body.as_bytes()).unwrap();
    let policy = Policy::from_toml("name = \"open\"").unwrap();
    let files = FileFacts::none();
    let facts = Facts::of(&parsed.workflow, &policy, Catalogue::builtin(), &files);
    let place = parsed.workflow.find(&id.parse().unwrap()).unwrap();
    facts.slots_at(place)[0].value
}

#[test]
fn numbers_are_followed_through_primitives_and_switches() {
    let nodes = r#""1":{"class_type":"PrimitiveInt","inputs":{"value":20}},
        "2":{"class_type":"PrimitiveInt","inputs":{"value":["1",0]}},
        "3":{"class_type":"PrimitiveInt","inputs":{"value":50}},
        "4":{"class_type":"PrimitiveBoolean","inputs":{"value":true}},
        "5":{"class_type":"ComfySwitchNode","inputs":{"switch":["4",0],"on_true":["2",0],"on_false":["3",0]}},
        "6":{"class_type":"ComfySwitchNode","inputs":{"switch":["9",0],"on_true":["2",0],"on_false":["3",0]}},
        "7":{"class_type":"StringLength","inputs":{"string":"äbc"}},
        "8":{"class_type":"StringLength","inputs":{"string":["9",0]}},
        "9":{"class_type":"PrimitiveString","inputs":{"value":"x"}}"#;
    assert_eq!(value_of(nodes, "2"), Value::Int(Interval::exactly(20)));
    assert_eq!(value_of(nodes, "5"), Value::Int(Interval::exactly(20)));
    assert_eq!(value_of(nodes, "6"), Value::Int(Interval::between(20, 50)));
    assert_eq!(value_of(nodes, "7"), Value::Int(Interval::exactly(3)));
    assert_eq!(value_of(nodes, "8"), Value::Int(Interval::between(0, 1)));
}

#[test]
fn numbers_in_a_text_are_counted_no_lower_than_python_finds_them() {
    for (text, found) in [("1., 0.5, .25", 3), ("", 0), ("a1b2", 2), ("١ ٢", 2), ("-1 +2 3..4", 3), ("1.2.3", 2)] {
        assert!(sigmas_in_text(text) >= found, "{text}");
    }
    assert_eq!(sigmas_in_text("no digits"), 0);
}
