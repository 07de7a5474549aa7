//! Arithmetic in a text, as `ComfyMathExpression` and `SimpleMath+` evaluate it, within bounds.
//!
//! The text is a Python expression. What is understood here is arithmetic on numbers: `+ - * / // % **`, comparisons, `and or not`, `x if c else y`, and calls of the functions that the class offers.
//! Anything else (attributes, subscripts, texts, shifts, chains of comparisons …) is refused, since nobody can say what comes out or how long it takes: `9**9**9` alone stops a ComfyUI for good.
//! No recursion: a shunting yard turns the tokens into steps in postfix order, and a stack runs them. Both are linear in the text, whose length and number of tokens are bounded.

use super::arithmetic::{ArithmeticError, Number, Part};
use super::interval::Interval;

/// Bytes of an expression.
const TEXT_BYTES_MAX: usize = 4096;
/// Tokens of an expression.
const TOKENS_MAX: usize = 256;

/// Whose expressions they are: the functions differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dialect {
    /// `ComfyMathExpression` of ComfyUI's own (`nodes_math.py`, on the library simpleeval).
    #[default]
    Comfy,
    /// `SimpleMath+` of ComfyUI_essentials (`misc.py`, on Python's own syntax tree).
    Essentials,
}

/// Why an expression can't be judged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ExpressionError {
    /// Too long.
    #[error("the expression is longer than {TEXT_BYTES_MAX} bytes or {TOKENS_MAX} numbers, names and signs")]
    TooLong,
    /// Something beyond arithmetic, or no expression at all.
    #[error("`{0}` is not understood in an expression here")]
    NotUnderstood(String),
    /// The parts don't make up an expression.
    #[error("the expression is not complete")]
    Incomplete,
    /// A name that nothing is connected to.
    #[error("the expression names `{0}`, which is not given")]
    UnknownName(String),
    /// It comes by a link.
    #[error("the expression comes by a link, so that nobody can judge it")]
    Linked,
    /// See [`ArithmeticError`].
    #[error("the expression {}", described(*.0))]
    Arithmetic(ArithmeticError),
}

impl ExpressionError {
    /// Whether ComfyUI merely ends the run with an error.
    pub(super) fn is_harmless(&self) -> bool {
        matches!(self, Self::Arithmetic(ArithmeticError::NoResult) | Self::UnknownName(_))
    }
}

fn described(error: ArithmeticError) -> &'static str {
    match error {
        ArithmeticError::TooLargePower => {
            "has a power of whole numbers that may be too large to be computed: keep it below 2**100"
        }
        ArithmeticError::NoResult => "divides by zero, or takes a root or logarithm that there is not",
    }
}

impl From<ArithmeticError> for ExpressionError {
    fn from(error: ArithmeticError) -> Self {
        Self::Arithmetic(error)
    }
}

/// What the expression `text` gives where the `variables` have these values.
///
/// # Errors
/// It is not plain arithmetic, names something else, or may take forever.
pub(super) fn evaluate(
    text: &str,
    dialect: Dialect,
    variables: &[(String, Number)],
) -> Result<Number, ExpressionError> {
    let tokens = tokens(text)?;
    let steps = Yard::new(dialect, variables).parse(&tokens)?;
    run(&steps)
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Token<'a> {
    Number(Number),
    Name(&'a str),
    Sign(&'a str),
}

/// Longest first.
const SIGNS: [&str; 17] =
    ["**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "<", ">", "(", ")", ",", "\u{0}"];

fn tokens(text: &str) -> Result<Vec<Token<'_>>, ExpressionError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(ExpressionError::TooLong);
    }
    let mut rest = text.trim();
    let mut out = Vec::new();
    while let Some(first) = rest.chars().next() {
        if out.len() >= TOKENS_MAX {
            return Err(ExpressionError::TooLong);
        }
        let (token, length) = if first.is_ascii_digit() || first == '.' {
            number_token(rest)?
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
            (Token::Name(rest.get(..length).unwrap_or_default()), length)
        } else {
            let sign = SIGNS.iter().find(|sign| rest.starts_with(**sign) && **sign != "\u{0}");
            let sign = sign.ok_or_else(|| ExpressionError::NotUnderstood(first.to_string()))?;
            (Token::Sign(sign), sign.len())
        };
        out.push(token);
        // A line's end would end the expression in Python; only blanks may stand between.
        rest = rest.get(length..).unwrap_or_default().trim_start_matches([' ', '\t']);
    }
    Ok(out)
}

/// `12`, `1.5`, `.5`, `1e3`. Other forms of Python's numbers (`0x10`, `1_000`, `1j`) are not understood.
fn number_token(text: &str) -> Result<(Token<'_>, usize), ExpressionError> {
    let digits = |from: usize| {
        let tail = text.as_bytes().get(from..).unwrap_or_default();
        tail.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let byte = |at: usize| text.as_bytes().get(at).copied().unwrap_or_default();
    let mut end = digits(0);
    let mut whole = true;
    if byte(end) == b'.' {
        whole = false;
        end += 1 + digits(end + 1);
    }
    if matches!(byte(end), b'e' | b'E') {
        let sign = usize::from(matches!(byte(end + 1), b'+' | b'-'));
        let exponent = digits(end + 1 + sign);
        if exponent > 0 {
            whole = false;
            end += 1 + sign + exponent;
        }
    }
    let follows = byte(end);
    let literal = text.get(..end).unwrap_or_default();
    let odd = || ExpressionError::NotUnderstood(literal.to_owned());
    if follows.is_ascii_alphanumeric() || follows == b'_' || follows == b'.' || !follows.is_ascii() {
        return Err(odd());
    }
    let number = if whole {
        match literal.parse::<i128>() {
            Ok(value) if value <= 1 << 100 => Number::int(Interval::exactly(value)),
            _ => Number { int: Part::Any, float: Part::Never },
        }
    } else {
        let value: f64 = literal.parse().map_err(|_| odd())?;
        Number::float(super::interval::FloatInterval::exactly(value))
    };
    Ok((Token::Number(number), end))
}

/// A function of one dialect or both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Function {
    Sum,
    Min,
    Max,
    Abs,
    Round,
    Pow,
    Sqrt,
    Ceil,
    Floor,
    Log,
    Log2,
    Log10,
    Sin,
    Cos,
    Tan,
    Int,
    Float,
}

impl Function {
    fn named(name: &str, dialect: Dialect) -> Option<Self> {
        let function = match name {
            "min" => Self::Min,
            "max" => Self::Max,
            "round" => Self::Round,
            _ if dialect == Dialect::Essentials => return None,
            "sum" => Self::Sum,
            "abs" => Self::Abs,
            "pow" => Self::Pow,
            "sqrt" => Self::Sqrt,
            "ceil" => Self::Ceil,
            "floor" => Self::Floor,
            "log" => Self::Log,
            "log2" => Self::Log2,
            "log10" => Self::Log10,
            "sin" => Self::Sin,
            "cos" => Self::Cos,
            "tan" => Self::Tan,
            "int" => Self::Int,
            "float" => Self::Float,
            _ => return None,
        };
        Some(function)
    }

    fn call(self, arguments: &[Number]) -> Result<Number, ExpressionError> {
        let fold = |join: fn(Number, Number) -> Number| {
            arguments.iter().copied().reduce(join).ok_or(ExpressionError::Incomplete)
        };
        match (self, arguments) {
            (Self::Sum, _) => fold(Number::plus),
            (Self::Min, _) => fold(Number::least),
            (Self::Max, _) => fold(Number::greatest),
            (Self::Abs, [x]) => Ok(x.absolute()),
            (Self::Round, [x]) => Ok(x.whole(f64::round_ties_even)),
            (Self::Round, [x, digits]) => Ok(x.rounded_to(*digits)),
            (Self::Pow, [x, y]) => Ok(x.power(*y)?),
            (Self::Sqrt, [x]) => Ok(x.root()?),
            (Self::Ceil, [x]) => Ok(x.whole(f64::ceil)),
            (Self::Floor, [x]) => Ok(x.whole(f64::floor)),
            (Self::Log, [x]) => Ok(x.logarithm(f64::ln)?),
            (Self::Log, [x, base]) => Ok(x.logarithm(f64::ln)?.over(base.logarithm(f64::ln)?)?),
            (Self::Log2, [x]) => Ok(x.logarithm(f64::log2)?),
            (Self::Log10, [x]) => Ok(x.logarithm(f64::log10)?),
            (Self::Sin | Self::Cos, [_]) => Ok(Number::wave()),
            (Self::Tan, [_]) => Ok(Number { int: Part::Never, float: Part::Any }),
            (Self::Int, [x]) => Ok(x.whole(f64::trunc)),
            (Self::Float, [x]) => Ok(x.to_float()),
            _ => Err(ExpressionError::Incomplete),
        }
    }
}

/// Operators by rising rank, as Python has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    IfElse,
    Or,
    And,
    Not,
    Less,
    LessEqual,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Plus,
    Minus,
    Times,
    Over,
    FloorOver,
    Modulo,
    Negate,
    Keep,
    Power,
}

impl Operator {
    fn rank(self) -> u8 {
        match self {
            Self::IfElse => 0,
            Self::Or => 1,
            Self::And => 2,
            Self::Not => 3,
            Self::Less | Self::LessEqual | Self::Equal | Self::NotEqual | Self::Greater | Self::GreaterEqual => 4,
            Self::Plus | Self::Minus => 5,
            Self::Times | Self::Over | Self::FloorOver | Self::Modulo => 6,
            Self::Negate | Self::Keep => 7,
            Self::Power => 8,
        }
    }

    fn binary(sign: &str) -> Option<Self> {
        Some(match sign {
            "or" => Self::Or,
            "and" => Self::And,
            "<" => Self::Less,
            "<=" => Self::LessEqual,
            "==" => Self::Equal,
            "!=" => Self::NotEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterEqual,
            "+" => Self::Plus,
            "-" => Self::Minus,
            "*" => Self::Times,
            "/" => Self::Over,
            "//" => Self::FloorOver,
            "%" => Self::Modulo,
            "**" => Self::Power,
            _ => return None,
        })
    }

    fn prefix(sign: &str) -> Option<Self> {
        Some(match sign {
            "-" => Self::Negate,
            "+" => Self::Keep,
            "not" => Self::Not,
            _ => return None,
        })
    }
}

/// One step in postfix order.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Step {
    Push(Number),
    Apply(Operator),
    Call(Function, usize),
}

/// What waits for its right side.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Waiting {
    Operator(Operator),
    /// The `if` of `x if c else y`, until its `else`.
    If,
    Group,
    /// A call, with its arguments so far.
    Call(Function, usize),
}

/// The shunting yard.
struct Yard<'a> {
    dialect: Dialect,
    variables: &'a [(String, Number)],
    steps: Vec<Step>,
    waiting: Vec<Waiting>,
    /// How many steps there were when a bracket was last closed.
    closed: usize,
}

impl<'a> Yard<'a> {
    fn new(dialect: Dialect, variables: &'a [(String, Number)]) -> Self {
        Self { dialect, variables, steps: Vec::new(), waiting: Vec::new(), closed: 0 }
    }

    fn parse(mut self, tokens: &[Token<'_>]) -> Result<Vec<Step>, ExpressionError> {
        let mut rest = tokens;
        // Whether a value is expected next, rather than an operator.
        let mut wants_value = true;
        while let Some((token, after)) = rest.split_first() {
            rest = after;
            if wants_value {
                (rest, wants_value) = self.value(*token, rest)?;
            } else {
                wants_value = self.operator(*token)?;
            }
        }
        if wants_value {
            return Err(ExpressionError::Incomplete);
        }
        while let Some(top) = self.waiting.pop() {
            match top {
                Waiting::Operator(operator) => self.steps.push(Step::Apply(operator)),
                Waiting::If | Waiting::Group | Waiting::Call(..) => return Err(ExpressionError::Incomplete),
            }
        }
        Ok(self.steps)
    }

    /// A token where a value may begin: what is left, and whether a value is still expected.
    fn value<'t>(
        &mut self,
        token: Token<'_>,
        rest: &'t [Token<'t>],
    ) -> Result<(&'t [Token<'t>], bool), ExpressionError> {
        match token {
            Token::Number(number) => {
                self.steps.push(Step::Push(number));
                Ok((rest, false))
            }
            Token::Sign("(") => {
                self.waiting.push(Waiting::Group);
                Ok((rest, true))
            }
            Token::Name(sign) | Token::Sign(sign) if Operator::prefix(sign).is_some() => {
                self.waiting.extend(Operator::prefix(sign).map(Waiting::Operator));
                Ok((rest, true))
            }
            Token::Name(name) => match rest.split_first() {
                Some((Token::Sign("("), after)) => self.call(name, after),
                _ => {
                    let number = self.variable(name)?;
                    self.steps.push(Step::Push(number));
                    Ok((rest, false))
                }
            },
            Token::Sign(sign) => Err(ExpressionError::NotUnderstood(sign.to_owned())),
        }
    }

    /// The opening of a call. `sum(values)` and its like take all that is given.
    fn call<'t>(&mut self, name: &str, rest: &'t [Token<'t>]) -> Result<(&'t [Token<'t>], bool), ExpressionError> {
        let function = Function::named(name, self.dialect);
        let function = function.ok_or_else(|| ExpressionError::NotUnderstood(format!("{name}()")))?;
        if let (Dialect::Comfy, [Token::Name("values"), Token::Sign(")"), after @ ..]) = (self.dialect, rest) {
            if !matches!(function, Function::Sum | Function::Min | Function::Max) {
                return Err(ExpressionError::NotUnderstood("values".to_owned()));
            }
            self.steps.extend(self.variables.iter().map(|(_, number)| Step::Push(*number)));
            self.steps.push(Step::Call(function, self.variables.len()));
            return Ok((after, false));
        }
        self.waiting.push(Waiting::Call(function, 1));
        Ok((rest, true))
    }

    fn variable(&self, name: &str) -> Result<Number, ExpressionError> {
        match (name, self.dialect) {
            ("True", Dialect::Comfy) => return Ok(Number::truth(Some(true))),
            ("False", Dialect::Comfy) => return Ok(Number::truth(Some(false))),
            ("if" | "else" | "and" | "or" | "lambda" | "in" | "is" | "for", _) => {
                return Err(ExpressionError::NotUnderstood(name.to_owned()));
            }
            _ => {}
        }
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, number)| *number).ok_or_else(|| ExpressionError::UnknownName(name.to_owned()))
    }

    /// A token after a value: whether a value is expected next.
    fn operator(&mut self, token: Token<'_>) -> Result<bool, ExpressionError> {
        match token {
            Token::Sign(")") => {
                self.reduce(|_| true);
                match self.waiting.pop() {
                    Some(Waiting::Group) => self.closed = self.steps.len(),
                    Some(Waiting::Call(function, count)) => self.steps.push(Step::Call(function, count)),
                    _ => return Err(ExpressionError::Incomplete),
                }
                Ok(false)
            }
            Token::Sign(",") => {
                self.reduce(|_| true);
                match self.waiting.last_mut() {
                    Some(Waiting::Call(_, count)) => *count += 1,
                    _ => return Err(ExpressionError::NotUnderstood(",".to_owned())),
                }
                Ok(true)
            }
            Token::Name("if") if self.dialect == Dialect::Comfy => {
                // The condition begins after everything that binds tighter; a second `if` belongs to the `else` before it.
                self.reduce(|operator| operator != Operator::IfElse);
                self.waiting.push(Waiting::If);
                Ok(true)
            }
            Token::Name("else") if self.dialect == Dialect::Comfy => {
                self.reduce(|operator| operator != Operator::IfElse);
                match self.waiting.pop() {
                    Some(Waiting::If) => self.waiting.push(Waiting::Operator(Operator::IfElse)),
                    _ => return Err(ExpressionError::NotUnderstood("else".to_owned())),
                }
                Ok(true)
            }
            Token::Name(sign) | Token::Sign(sign) => {
                let operator = Operator::binary(sign);
                let operator = operator.ok_or_else(|| ExpressionError::NotUnderstood(sign.to_owned()))?;
                let rank = operator.rank();
                // `**` takes its right side first, and leaves a sign before it for later.
                self.reduce(|before| before.rank() > rank || (before.rank() == rank && rank != Operator::Power.rank()));
                self.refuse_chain(operator)?;
                self.waiting.push(Waiting::Operator(operator));
                Ok(true)
            }
            Token::Number(_) => Err(ExpressionError::Incomplete),
        }
    }

    /// `a < b < c` means `a < b and b < c` in Python, not what steps one after the other would give. The first comparison was applied last, just now.
    fn refuse_chain(&self, operator: Operator) -> Result<(), ExpressionError> {
        let comparison = Operator::Less.rank();
        match self.steps.last() {
            // In brackets it is a value of its own.
            _ if self.closed == self.steps.len() => Ok(()),
            Some(Step::Apply(before)) if operator.rank() == comparison && before.rank() == comparison => {
                Err(ExpressionError::NotUnderstood("a chain of comparisons".to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Applies what waits on top as long as it binds.
    fn reduce(&mut self, binds: impl Fn(Operator) -> bool) {
        while let Some(Waiting::Operator(operator)) = self.waiting.last().copied() {
            if !binds(operator) {
                return;
            }
            self.waiting.pop();
            self.steps.push(Step::Apply(operator));
        }
    }
}

fn run(steps: &[Step]) -> Result<Number, ExpressionError> {
    let mut stack: Vec<Number> = Vec::new();
    for step in steps {
        let result = match step {
            Step::Push(number) => *number,
            Step::Call(function, count) => {
                let start = stack.len().checked_sub(*count).ok_or(ExpressionError::Incomplete)?;
                function.call(&stack.split_off(start))?
            }
            Step::Apply(operator) => {
                let mut pop = || stack.pop().ok_or(ExpressionError::Incomplete);
                let right = pop()?;
                match operator {
                    Operator::Negate => right.negated(),
                    // `+True` is 1, as a truth value counts here anyway.
                    Operator::Keep => right,
                    Operator::Not => Number::truth(right.is_true().map(|known| !known)),
                    Operator::IfElse => {
                        let condition = pop()?;
                        let value = pop()?;
                        chosen(condition.is_true(), value, right)
                    }
                    _ => binary(*operator, pop()?, right)?,
                }
            }
        };
        stack.push(result);
    }
    let result = stack.pop().ok_or(ExpressionError::Incomplete)?;
    if stack.is_empty() { Ok(result) } else { Err(ExpressionError::Incomplete) }
}

fn chosen(condition: Option<bool>, on_true: Number, on_false: Number) -> Number {
    match condition {
        Some(true) => on_true,
        Some(false) => on_false,
        None => on_true.hull(on_false),
    }
}

fn binary(operator: Operator, left: Number, right: Number) -> Result<Number, ExpressionError> {
    let not = |known: Option<bool>| known.map(|known| !known);
    Ok(match operator {
        Operator::Plus => left.plus(right),
        Operator::Minus => left.minus(right),
        Operator::Times => left.times(right),
        Operator::Over => left.over(right)?,
        Operator::FloorOver => left.floor_over(right)?,
        Operator::Modulo => left.modulo(right)?,
        Operator::Power => left.power(right)?,
        Operator::And => chosen(left.is_true(), right, left),
        Operator::Or => chosen(left.is_true(), left, right),
        Operator::Less => Number::truth(left.is_less(right)),
        Operator::GreaterEqual => Number::truth(not(left.is_less(right))),
        Operator::Greater => Number::truth(right.is_less(left)),
        Operator::LessEqual => Number::truth(not(right.is_less(left))),
        Operator::Equal => Number::truth(left.is_equal(right)),
        Operator::NotEqual => Number::truth(not(left.is_equal(right))),
        Operator::IfElse | Operator::Not | Operator::Negate | Operator::Keep => {
            return Err(ExpressionError::Incomplete);
        }
    })
}

/// What the expression gives, for those who compare it with what it really gives: variables are whole numbers or doubles between two ends.
#[cfg(feature = "fuzzing")]
pub(crate) fn judged(text: &str, variables: &[(String, bool, f64, f64)]) -> Option<Judged> {
    let number = |whole: bool, lo: f64, hi: f64| match whole {
        true => Number::int(Interval::between(super::interval::floor(lo), super::interval::ceil(hi))),
        false => Number::float(super::interval::FloatInterval { lo, hi }),
    };
    let known: Vec<(String, Number)> =
        variables.iter().map(|(name, whole, lo, hi)| (name.clone(), number(*whole, *lo, *hi))).collect();
    // The other dialect must not panic either.
    let _other = evaluate(text, Dialect::Essentials, &known);
    evaluate(text, Dialect::Comfy, &known).ok().map(Judged)
}

/// A judged expression.
#[cfg(feature = "fuzzing")]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged(Number);

#[cfg(feature = "fuzzing")]
impl Judged {
    /// Whether it may be this whole number.
    pub(crate) fn holds_int(self, value: i128) -> bool {
        match self.0.int {
            Part::Never => false,
            Part::Within(bounds) => (bounds.lo..=bounds.hi).contains(&value),
            Part::Any => true,
        }
    }

    /// Whether it may be this double; an infinity or a NaN lies in no bounds.
    pub(crate) fn holds_float(self, value: f64) -> bool {
        match self.0.float {
            Part::Never => false,
            Part::Within(bounds) => (bounds.lo..=bounds.hi).contains(&value),
            Part::Any => true,
        }
    }
}

#[cfg(test)]
mod tests;
