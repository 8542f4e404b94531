//! Closed lists of words: enums whose variants are the words used in conditions, logs and pages.

/// Declares an enum of words. Each variant is named like its text. Adds the list of all variants, in order, and the text of
/// each.
macro_rules! words {
    ($(#[$head:meta])* $type:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$head])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$doc])* $name,)*
        }

        impl $type {
            /// All words.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}
pub(crate) use words;
