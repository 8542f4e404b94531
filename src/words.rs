//! Closed lists of words: enums whose variants are the very words that conditions, logs and pages say.

/// Declares an enum of words, each named as it is written, with all of them in order and their text.
macro_rules! words {
    ($(#[$head:meta])* $type:ident { $($(#[$doc:meta])* $name:ident,)* }) => {
        $(#[$head])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type {
            $($(#[$doc])* $name,)*
        }

        impl $type {
            /// Every word there is.
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
