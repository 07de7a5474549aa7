//! Arithmetic in texts against a plain evaluator: random expressions on values between known bounds.

use crate::bounds::{Judged, judged_expression};

use super::generator::Choices;

/// A Python number.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Plain {
    Int(i128),
    Float(f64),
}

/// Beyond this a whole number is no double, and nothing is computed with it here.
const EXACT: i128 = 1 << 53;
/// Levels of a generated expression.
const DEPTH_MAX: usize = 5;

/// A variable: its bounds, and the value that it has between them.
#[derive(Debug, Clone, Copy)]
struct Variable {
    /// A whole number rather than a double.
    whole: bool,
    lo: f64,
    hi: f64,
    value: f64,
}

/// Any text is evaluated or refused without panic; whatever a generated expression really gives lies within what is said about it.
pub(super) fn check(data: &[u8]) {
    let mut choices = Choices::from_bytes(data);
    let variables: Vec<(String, Variable)> =
        ["a", "b", "c"].into_iter().map(|name| (name.to_owned(), variable(&mut choices))).collect();
    if choices.below(4) == 1 {
        judged(&String::from_utf8_lossy(data), &variables);
        return;
    }
    let (text, plain) = expression(&mut choices, &variables, 0);
    let (Some(plain), Some(said)) = (plain, judged(&text, &variables)) else { return };
    let within = match plain {
        Plain::Int(value) => said.holds_int(value),
        Plain::Float(value) => said.holds_float(value),
    };
    assert!(within, "{text} with {variables:?} is {plain:?}, said to be {said:?}");
}

fn judged(text: &str, variables: &[(String, Variable)]) -> Option<Judged> {
    let known: Vec<(String, bool, f64, f64)> =
        variables.iter().map(|(name, of)| (name.clone(), of.whole, of.lo, of.hi)).collect();
    judged_expression(text, &known)
}

fn variable(choices: &mut Choices<'_>) -> Variable {
    let edges =
        [0.0, 1.0, -1.0, 2.0, 3.0, 7.0, 64.0, 512.0, 1023.0, 4096.0, -8.0, 1_048_576.0, 9_007_199_254_740_991.0];
    let whole = choices.below(2) == 0;
    let mut end = || {
        let edge = choices.one(&edges).unwrap_or(0.0);
        if whole { edge } else { edge / choices.one(&[1.0, 2.0, 3.0, 10.0]).unwrap_or(1.0) }
    };
    let (x, y, value): (f64, f64, f64) = (end(), end(), end());
    let (lo, hi) = (x.min(y), x.max(y));
    Variable { whole, lo, hi, value: value.clamp(lo, hi) }
}

#[expect(clippy::cast_possible_truncation, reason = "whole numbers below 2^53")]
fn atom(choices: &mut Choices<'_>, variables: &[(String, Variable)]) -> (String, Option<Plain>) {
    match choices.below(6) {
        0 => {
            let value = i128::try_from(choices.below(70)).unwrap_or(0);
            (value.to_string(), Some(Plain::Int(value)))
        }
        1 => {
            let value = choices.one(&[0.5, 1.0, 2.25, 0.1, 8.0, 1e3]).unwrap_or(0.5);
            (format!("{value:?}"), Some(Plain::Float(value)))
        }
        _ => match variables.get(choices.below(variables.len())) {
            Some((name, of)) if of.whole => (name.clone(), Some(Plain::Int(of.value as i128))),
            Some((name, of)) => (name.clone(), Some(Plain::Float(of.value))),
            None => ("0".to_owned(), Some(Plain::Int(0))),
        },
    }
}

/// A random expression as text and what Python makes of it; no value where it would raise or where a double can't say.
fn expression(choices: &mut Choices<'_>, variables: &[(String, Variable)], depth: usize) -> (String, Option<Plain>) {
    if depth >= DEPTH_MAX || choices.below(5) == 0 {
        return atom(choices, variables);
    }
    let mut part = || expression(choices, variables, depth + 1);
    let ((x, a), (y, b), (z, c)) = (part(), part(), part());
    let operators = ["+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!=", "and", "or"];
    let functions = ["min", "max", "abs", "round", "sqrt", "ceil", "floor", "int", "float", "log2"];
    match choices.below(4) {
        0 | 1 => {
            let operator = choices.one(&operators).unwrap_or("+");
            (format!("({x} {operator} {y})"), both(a, b).and_then(|(a, b)| applied(operator, a, b)))
        }
        2 => match choices.one(&functions).unwrap_or("abs") {
            name @ ("min" | "max") => {
                (format!("{name}({x}, {y})"), both(a, b).and_then(|(a, b)| chosen(name == "max", a, b)))
            }
            name => (format!("{name}({x})"), a.and_then(|a| called(name, a))),
        },
        _ => match choices.below(3) {
            0 => (format!("(-{x})"), a.map(negated)),
            1 => (format!("(not {x})"), a.map(|a| truth(!is_true(a)))),
            _ => {
                let taken = b.and_then(|b| if is_true(b) { a } else { c });
                (format!("({x} if {y} else {z})"), taken)
            }
        },
    }
}

fn both(a: Option<Plain>, b: Option<Plain>) -> Option<(Plain, Plain)> {
    a.zip(b)
}

fn truth(value: bool) -> Plain {
    Plain::Int(i128::from(value))
}

fn is_true(value: Plain) -> bool {
    value != Plain::Int(0) && value != Plain::Float(0.0)
}

fn negated(value: Plain) -> Plain {
    match value {
        Plain::Int(value) => Plain::Int(-value),
        Plain::Float(value) => Plain::Float(-value),
    }
}

/// As `float(x)`, where a double holds the number exactly.
#[expect(clippy::cast_precision_loss, reason = "checked")]
fn double(value: Plain) -> Option<f64> {
    match value {
        Plain::Int(value) if value.abs() <= EXACT => Some(value as f64),
        Plain::Int(_) => None,
        Plain::Float(value) => Some(value),
    }
}

fn applied(operator: &str, a: Plain, b: Plain) -> Option<Plain> {
    if operator == "and" || operator == "or" {
        return Some(if is_true(a) == (operator == "or") { a } else { b });
    }
    if let (Plain::Int(a), Plain::Int(b)) = (a, b)
        && operator != "/"
    {
        return of_ints(operator, a, b);
    }
    let (a, b) = (double(a)?, double(b)?);
    Some(match operator {
        "+" => Plain::Float(a + b),
        "-" => Plain::Float(a - b),
        "*" => Plain::Float(a * b),
        "/" if b != 0.0 => Plain::Float(a / b),
        // Python computes the remainder first; here only where both are exact and small.
        "//" if b != 0.0 && (a / b).abs() < 1e6 => {
            let remainder = python_remainder(a, b);
            let quotient = (a - remainder) / b;
            let floored = quotient.floor();
            Plain::Float(if quotient - floored > 0.5 { floored + 1.0 } else { floored })
        }
        "%" if b != 0.0 => Plain::Float(python_remainder(a, b)),
        "**" if a > 0.0 && (a.powf(b)).is_finite() => Plain::Float(a.powf(b)),
        "<" => truth(a < b),
        "<=" => truth(a <= b),
        ">" => truth(a > b),
        ">=" => truth(a >= b),
        "==" => truth(a == b),
        "!=" => truth(a != b),
        _ => return None,
    })
}

fn python_remainder(a: f64, b: f64) -> f64 {
    let remainder = a % b;
    if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) { remainder + b } else { remainder }
}

fn of_ints(operator: &str, a: i128, b: i128) -> Option<Plain> {
    let quotient = || {
        let toward_zero = a.checked_div(b)?;
        let exact = a.checked_rem(b)? == 0;
        Some(if !exact && (a < 0) != (b < 0) { toward_zero - 1 } else { toward_zero })
    };
    Some(Plain::Int(match operator {
        "+" => a.checked_add(b)?,
        "-" => a.checked_sub(b)?,
        "*" => a.checked_mul(b)?,
        "//" => quotient()?,
        "%" => a - quotient()?.checked_mul(b)?,
        "**" if (0..=64).contains(&b) => a.checked_pow(u32::try_from(b).ok()?)?,
        "<" => i128::from(a < b),
        "<=" => i128::from(a <= b),
        ">" => i128::from(a > b),
        ">=" => i128::from(a >= b),
        "==" => i128::from(a == b),
        "!=" => i128::from(a != b),
        _ => return None,
    }))
}

/// Python's `min` and `max` give the first of equals.
fn chosen(largest: bool, a: Plain, b: Plain) -> Option<Plain> {
    let (x, y) = (double(a)?, double(b)?);
    let takes_second = if largest { y > x } else { y < x };
    Some(if takes_second { b } else { a })
}

#[expect(clippy::cast_possible_truncation, reason = "checked to be below 2^53")]
fn called(name: &str, a: Plain) -> Option<Plain> {
    let whole = |value: f64| {
        let exact = value.is_finite() && value.abs() < 9e15;
        exact.then_some(Plain::Int(value as i128))
    };
    match (name, a) {
        ("abs", Plain::Int(a)) => Some(Plain::Int(a.abs())),
        ("abs", Plain::Float(a)) => Some(Plain::Float(a.abs())),
        ("round" | "ceil" | "floor" | "int", Plain::Int(_)) => Some(a),
        ("round", Plain::Float(a)) => whole(a.round_ties_even()),
        ("ceil", Plain::Float(a)) => whole(a.ceil()),
        ("floor", Plain::Float(a)) => whole(a.floor()),
        ("int", Plain::Float(a)) => whole(a.trunc()),
        ("float", a) => double(a).map(Plain::Float),
        ("sqrt", a) => double(a).filter(|a| *a >= 0.0).map(|a| Plain::Float(a.sqrt())),
        ("log2", a) => double(a).filter(|a| *a > 0.0).map(|a| Plain::Float(a.log2())),
        _ => None,
    }
}
