//! Numbers that a class computes from others: expressions, conversions and resolutions.

use super::arithmetic::{Number, Part};
use super::expression::{ExpressionError, evaluate};
use super::interval::{FloatInterval, Interval, ceil, floor};
use super::{Facts, Value, number};
use crate::catalogue::{Choice, ClassSignature, Convert, Expression, Gives, Side, ValueRule};
use crate::workflow::json::Json;
use crate::workflow::node::{Input, Node};

/// Sides of the ratios that `ResolutionSelector` offers (`nodes_resolution.py`), by how a choice begins.
const RATIOS: [(&str, f64, f64); 8] = [
    ("1:1 ", 1.0, 1.0),
    ("2:3 ", 2.0, 3.0),
    ("3:2 ", 3.0, 2.0),
    ("3:4 ", 3.0, 4.0),
    ("4:3 ", 4.0, 3.0),
    ("9:16 ", 9.0, 16.0),
    ("16:9 ", 16.0, 9.0),
    ("21:9 ", 21.0, 9.0),
];

/// What the output of a class with an expression is.
pub(super) fn expression(facts: &Facts<'_>, node: &Node, rule: &Expression) -> Value {
    match evaluated(facts, node, rule) {
        Ok(result) => given(result, rule.gives),
        // A rule of its own tells the fault.
        Err(_) => Value::Unknown,
    }
}

/// Why the expression of `node` can't be judged, with the input that holds it. One that only fails is ComfyUI's to report.
pub(crate) fn expression_fault<'a>(
    facts: &Facts<'_>,
    node: &Node,
    class: &'a ClassSignature,
) -> Option<(&'a str, ExpressionError)> {
    let rules = (0..class.outputs().len()).filter_map(|slot| class.value_rule(slot));
    let rule = rules.into_iter().find_map(|rule| match rule {
        ValueRule::Expression(rule) => Some(rule),
        _ => None,
    })?;
    let error = evaluated(facts, node, rule).err()?;
    (!error.is_harmless()).then_some((rule.text.as_str(), error))
}

fn evaluated(facts: &Facts<'_>, node: &Node, rule: &Expression) -> Result<Number, ExpressionError> {
    let text = match node.input(&rule.text) {
        Some(Input::Literal(Json::Text(text))) => text,
        Some(Input::Link(_)) => return Err(ExpressionError::Linked),
        _ => return Err(ExpressionError::Incomplete),
    };
    let mut variables: Vec<(String, Number)> = Vec::new();
    if let Some(row) = &rule.row {
        for (full, _) in &node.inputs {
            if let Some(short) = full.strip_prefix(row.as_str()).and_then(|rest| rest.strip_prefix('.')) {
                variables.push((short.to_owned(), operand(facts, node, full)));
            }
        }
    }
    for name in &rule.inputs {
        let absent = rule.absent.filter(|_| node.input(name).is_none());
        match absent {
            Some(value) => variables.push((name.clone(), Number::float(FloatInterval::exactly(value)))),
            None if node.input(name).is_some() => variables.push((name.clone(), operand(facts, node, name))),
            None => {}
        }
    }
    evaluate(text, rule.dialect, &variables)
}

/// What an input holds as a Python number, whatever type it is declared with.
fn operand(facts: &Facts<'_>, node: &Node, name: &str) -> Number {
    match node.input(name) {
        Some(Input::Literal(literal)) => match literal {
            Json::Int(value) => Number::int(Interval { lo: *value, hi: *value }),
            Json::Float(value) => Number::float(FloatInterval::exactly(*value)),
            Json::Bool(value) => Number::truth(Some(*value)),
            Json::Text(text) => digits(text),
            _ => Number::ANY,
        },
        Some(Input::Link(link)) => facts.slot(*link).map_or(Number::ANY, |slot| of_value(slot.value)),
        None => Number::ANY,
    }
}

fn of_value(value: Value) -> Number {
    match value {
        Value::Int(interval) => Number::int(interval),
        Value::Float(interval) => Number::float(interval),
        Value::Bool(known) => Number::truth(known),
        Value::Unknown => Number::ANY,
    }
}

/// `float(text)`. A text that is no number ends in an error, so that nothing needs to be known of it.
fn digits(text: &str) -> Number {
    // Python takes `_` between digits, and digits of other scripts.
    match text.trim().parse::<f64>() {
        Ok(value) if value.is_finite() => Number::float(FloatInterval::exactly(value)),
        _ => Number::ANY,
    }
}

fn given(result: Number, gives: Gives) -> Value {
    let int = |number: Number| match number.int {
        Part::Within(interval) => Value::Int(interval),
        _ => Value::Unknown,
    };
    match gives {
        Gives::Float => match result.as_float() {
            Part::Within(interval) => Value::Float(interval),
            _ => Value::Unknown,
        },
        Gives::Int => int(result.whole(f64::trunc)),
        Gives::Rounded => int(result.whole(f64::round_ties_even)),
        Gives::Boolean => Value::Bool(result.is_true()),
    }
}

/// `ComfyNumberConvert`.
pub(super) fn converted(facts: &Facts<'_>, node: &Node, rule: &Convert) -> Value {
    given(operand(facts, node, &rule.of), rule.gives)
}

/// What a choice stands for, times a factor.
pub(super) fn chosen(facts: &Facts<'_>, node: &Node, class: &ClassSignature, rule: &Choice) -> Value {
    let Some(choice) = node.text(&rule.by) else {
        return Value::Unknown;
    };
    let known = |name: &String| {
        let input = class.input(node, name)?;
        Some(of_value(number(facts, node, name, input.declared())))
    };
    let numbers: Option<Vec<Number>> = match rule.of.get(choice) {
        Some(values) => Some(values.iter().map(|value| Number::int(Interval::exactly(i128::from(*value)))).collect()),
        None => rule.otherwise.iter().map(known).collect(),
    };
    let all = numbers.and_then(|numbers| numbers.into_iter().reduce(Number::hull));
    let factor = rule.times.as_ref().map(known);
    match (all, factor) {
        (Some(all), None) => given(all, Gives::Int),
        (Some(all), Some(Some(factor))) => given(all.times(factor), Gives::Int),
        _ => Value::Unknown,
    }
}

/// `ResolutionSelector`: sides whose product is nearly `megapixels` × 1024², each rounded to a multiple.
pub(super) fn resolution(facts: &Facts<'_>, node: &Node, class: &ClassSignature, side: Side) -> Value {
    let known = |name: &str| {
        let input = class.input(node, name)?;
        Some(number(facts, node, name, input.declared()))
    };
    let ratio = node.text("aspect_ratio").and_then(|chosen| RATIOS.iter().find(|(key, ..)| chosen.starts_with(key)));
    let (Some((_, width, height)), Some(Value::Float(megapixels)), Some(Value::Int(multiple))) =
        (ratio, known("megapixels"), known("multiple"))
    else {
        return Value::Unknown;
    };
    // One that is written down and too small is refused where it stands, and ComfyUI divides by no 0.
    let written = matches!(node.input("multiple"), Some(Input::Literal(_)));
    let multiple = if written { multiple.clamped(1, i128::MAX) } else { multiple };
    if megapixels.lo < 0.0 || multiple.lo < 1 {
        return Value::Unknown;
    }
    let share = match side {
        Side::Width => width / height,
        Side::Height => height / width,
    };
    let pixels = megapixels.times(FloatInterval::exactly(1_048_576.0)).times(FloatInterval::exactly(share));
    let exact = pixels.sqrt();
    // ComfyUI computes it in another order: a unit in the last place may decide on the other multiple, so that both ends get one.
    let (lo, hi) = (floor(exact.lo).saturating_sub(multiple.hi), ceil(exact.hi).saturating_add(multiple.hi));
    if multiple.lo == multiple.hi && megapixels.lo == megapixels.hi {
        return exactly_rounded(exact, multiple.lo).unwrap_or(Value::Int(Interval::between(lo.max(0), hi)));
    }
    Value::Int(Interval::between(lo.max(0), hi))
}

/// The multiple that both ends of a narrow interval, widened a little, round to.
fn exactly_rounded(exact: FloatInterval, multiple: i128) -> Option<Value> {
    let step = FloatInterval::from(Interval::exactly(multiple)).hi;
    let slack = 1e-6;
    let rounded = |end: f64| floor((end / step).round_ties_even());
    let (lo, hi) = (rounded(exact.lo - slack), rounded(exact.hi + slack));
    (lo == hi).then(|| Value::Int(Interval::exactly(lo.saturating_mul(multiple))))
}
