//! Figures for people: columns, thousands, megabytes.
//!
//! Owns the printing to standard output; commands build lines and hand them over.

/// Prints one line.
#[expect(clippy::print_stdout, reason = "the one place where results reach the user")]
pub fn line(text: impl AsRef<str>) {
    println!("{}", text.as_ref());
}

/// Prints a warning beside the results.
#[expect(clippy::print_stderr, reason = "what was not read must be seen, and must not mix with the results")]
pub fn warn(text: impl AsRef<str>) {
    eprintln!("warning: {}", text.as_ref());
}

/// Prints a name and its value in two columns.
pub fn row(name: &str, value: impl AsRef<str>) {
    line(format!("{name:<22}{}", value.as_ref()));
}

/// A whole number with thousands separated.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Bytes as MB of 10^6.
pub fn megabytes(num_bytes: u64) -> String {
    format!("{:.1} MB", num_bytes as f64 / 1e6)
}

/// A share as percent.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated_from_the_right() {
        assert_eq!([0, 7, 999, 1000, 1_234_567].map(thousands), ["0", "7", "999", "1,000", "1,234,567"]);
    }
}
