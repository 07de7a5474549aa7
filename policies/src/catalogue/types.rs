//! The types that rules ask for again and again, as bits: a workflow asks hundreds of times whether something is an IMAGE.

/// Some of ComfyUI's types. Those that no rule asks for by name are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TypeSet(u32);

impl TypeSet {
    pub(crate) const IMAGE: Self = Self(1);
    pub(crate) const LATENT: Self = Self(1 << 1);
    pub(crate) const MASK: Self = Self(1 << 2);
    pub(crate) const VIDEO: Self = Self(1 << 3);
    pub(crate) const AUDIO: Self = Self(1 << 4);
    pub(crate) const TRACKS: Self = Self(1 << 5);
    /// `*`: anything.
    pub(crate) const ANY: Self = Self(1 << 6);
    pub(crate) const MODEL: Self = Self(1 << 7);
    pub(crate) const CONDITIONING: Self = Self(1 << 8);
    pub(crate) const CONTROL_NET: Self = Self(1 << 9);
    pub(crate) const GUIDER: Self = Self(1 << 10);
    pub(crate) const VAE: Self = Self(1 << 11);
    pub(crate) const UPSCALE_MODEL: Self = Self(1 << 12);
    pub(crate) const SAMPLER: Self = Self(1 << 13);
    pub(crate) const SIGMAS: Self = Self(1 << 14);
    pub(crate) const CLIP: Self = Self(1 << 15);
    pub(crate) const STRING: Self = Self(1 << 17);
    /// A type that is none of the others, or the output is of a template's type.
    pub(crate) const OTHER: Self = Self(1 << 16);

    /// No type at all.
    pub(crate) const NONE: Self = Self(0);
    /// Types whose size is followed.
    pub(crate) const SHAPED: Self =
        Self::of_all(&[Self::IMAGE, Self::LATENT, Self::MASK, Self::VIDEO, Self::AUDIO, Self::TRACKS, Self::ANY]);

    /// Types of what may be a text: those too that say nothing.
    pub(crate) const TEXTUAL: Self = Self::of_all(&[Self::STRING, Self::ANY, Self::OTHER]);

    /// What is declared: one type, or several with commas between.
    pub(crate) fn declared(type_name: &str) -> Self {
        type_name.split(',').map(|name| Self::named(name.trim())).fold(Self::NONE, Self::and)
    }

    fn named(name: &str) -> Self {
        match name {
            "IMAGE" => Self::IMAGE,
            "LATENT" => Self::LATENT,
            "MASK" => Self::MASK,
            "VIDEO" => Self::VIDEO,
            "AUDIO" => Self::AUDIO,
            "TRACKS" => Self::TRACKS,
            "*" => Self::ANY,
            "MODEL" => Self::MODEL,
            "CONDITIONING" => Self::CONDITIONING,
            "CONTROL_NET" => Self::CONTROL_NET,
            "GUIDER" => Self::GUIDER,
            "VAE" => Self::VAE,
            "UPSCALE_MODEL" => Self::UPSCALE_MODEL,
            "SAMPLER" => Self::SAMPLER,
            "SIGMAS" => Self::SIGMAS,
            "CLIP" => Self::CLIP,
            "STRING" => Self::STRING,
            _ => Self::OTHER,
        }
    }

    /// All of these together.
    pub(crate) const fn of_all(sets: &[Self]) -> Self {
        let mut bits = 0;
        let mut rest = sets;
        while let [first, others @ ..] = rest {
            bits |= first.0;
            rest = others;
        }
        Self(bits)
    }

    /// Both together.
    pub(crate) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether there is a type that is in both.
    pub(crate) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether every type of this one is in `other` too.
    pub(crate) fn is_within(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_names_one_type_or_several() {
        assert_eq!(TypeSet::declared("IMAGE"), TypeSet::IMAGE);
        assert_eq!(TypeSet::declared("IMAGE, MASK"), TypeSet::IMAGE.and(TypeSet::MASK));
        assert_eq!(TypeSet::declared("IMAGES"), TypeSet::OTHER);
        assert_eq!(TypeSet::declared(""), TypeSet::OTHER);
    }

    #[test]
    fn sets_meet_where_they_share_a_type() {
        assert!(TypeSet::SHAPED.meets(TypeSet::ANY) && !TypeSet::SHAPED.meets(TypeSet::MODEL));
        assert!(
            TypeSet::IMAGE.is_within(TypeSet::SHAPED) && !TypeSet::declared("IMAGE,MODEL").is_within(TypeSet::SHAPED)
        );
        assert!(TypeSet::NONE.is_within(TypeSet::NONE) && !TypeSet::NONE.meets(TypeSet::SHAPED));
    }
}
