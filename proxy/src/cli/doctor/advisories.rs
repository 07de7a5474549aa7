//! Published vulnerabilities of ComfyUI, by the release that fixed them (facts §10).

/// One of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Advisory {
    /// CVE number.
    pub(super) id: &'static str,
    /// The first release without it.
    pub(super) fixed: (u32, u32, u32),
    /// What it lets somebody do who reaches the port.
    pub(super) what: &'static str,
}

/// Oldest fix first.
pub(super) const ADVISORIES: [Advisory; 6] = [
    Advisory { id: "CVE-2026-68771", fixed: (0, 23, 0), what: "code execution by a training data set" },
    Advisory { id: "CVE-2026-56670", fixed: (0, 28, 0), what: "scripts in files that /view shows" },
    Advisory { id: "CVE-2026-56671", fixed: (0, 28, 0), what: "any picture of the machine by the model preview" },
    Advisory { id: "CVE-2026-56672", fixed: (0, 28, 0), what: "scripts in files that /userdata shows" },
    Advisory { id: "CVE-2026-56673", fixed: (0, 28, 0), what: "any file of the machine by LoadImage" },
    Advisory { id: "CVE-2026-56674", fixed: (0, 28, 0), what: "requests in the name of whoever visits a foreign page" },
];

/// `0.8.0` or `v0.8.0-12-gabc`; `None` for what has no three numbers.
pub(super) fn version(text: &str) -> Option<(u32, u32, u32)> {
    let mut parts = text.trim().trim_start_matches('v').splitn(3, '.');
    let mut number = || {
        let part = parts.next()?;
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..digits)?.parse().ok()
    };
    Some((number()?, number()?, number()?))
}

/// Those that a release has.
pub(super) fn of_release(release: (u32, u32, u32)) -> impl Iterator<Item = &'static Advisory> {
    ADVISORIES.iter().filter(move |advisory| release < advisory.fixed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_has_what_later_ones_fixed_and_nothing_else() {
        assert_eq!(of_release((0, 8, 0)).count(), 6);
        assert_eq!(of_release((0, 22, 9)).count(), 6);
        assert_eq!(of_release((0, 23, 0)).count(), 5);
        assert_eq!(of_release((0, 28, 0)).count(), 0);
        assert_eq!(of_release((1, 0, 0)).count(), 0);
    }

    #[test]
    fn releases_are_read_with_what_follows_them() {
        assert_eq!(version("0.8.0"), Some((0, 8, 0)));
        assert_eq!(version("v0.28.1-12-gabcdef"), Some((0, 28, 1)));
        assert_eq!((version("0.8"), version("main"), version("")), (None, None, None));
    }
}
