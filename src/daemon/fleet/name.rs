//! What a login name means.

use crate::target::Selector;

/// What a client wants by its login name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish<'a> {
    /// Whatever is served to those who name nothing.
    Usual,
    /// A target, and the user on it, if the name says.
    Target {
        /// In the words of the login name; an alias, or what [`Selector`] reads.
        target: &'a str,
        /// Never empty.
        user: Option<&'a str>,
    },
}

/// Reads the login name `name`.
///
/// Aliases select. Otherwise, what stands behind the last `+` is a target, and before it the user there: user names
/// with a `+` keep theirs. Without a `+`, what looks like an id selects, even a misspelt one: nobody is to end up on another machine
/// than they have named. Anything else is a name like those that SSH clients send by themselves; it leads to the usual
/// target where there is one, and is a target otherwise.
pub(super) fn read(name: &str, is_alias: impl Fn(&str) -> bool, has_usual: bool) -> Wish<'_> {
    let itself = Wish::Target {
        target: name,
        user: None,
    };
    if is_alias(name) {
        return itself;
    }
    if let Some((user, target)) = name.rsplit_once('+') {
        let user = (!user.is_empty()).then_some(user);
        return Wish::Target { target, user };
    }
    if has_usual && !is_like_an_id(name) {
        return Wish::Usual;
    }
    itself
}

fn is_like_an_id(name: &str) -> bool {
    let is_hex = |rest: &str| rest.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_numbered = |prefix| name.strip_prefix(prefix).is_some_and(is_hex);
    matches!(Selector::parse(name), Selector::Id(_))
        || is_numbered("i-")
        || is_numbered("mi-")
        || name.starts_with("ecs:")
        || (name.starts_with("sagemaker-") && name.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Wish<'_> = Wish::Usual;

    const fn target<'a>(target: &'a str, user: Option<&'a str>) -> Wish<'a> {
        Wish::Target { target, user }
    }

    #[test]
    fn a_name_selects_by_its_form() {
        // The name, and what it means with a usual target and without.
        for (name, with, without) in [
            ("anything", USUAL, target("anything", None)),
            ("", USUAL, target("", None)),
            ("web-1", USUAL, target("web-1", None)),
            ("10.0.0.7", USUAL, target("10.0.0.7", None)),
            ("i-am-legend", USUAL, target("i-am-legend", None)),
            ("sagemaker-user", USUAL, target("sagemaker-user", None)),
            ("db", target("db", None), target("db", None)),
            ("DB", USUAL, target("DB", None)),
            ("c++", target("c++", None), target("c++", None)),
        ] {
            let is_alias = |name: &str| ["db", "c++"].contains(&name);
            assert_eq!(read(name, is_alias, true), with, "{name}");
            assert_eq!(read(name, is_alias, false), without, "{name}");
        }
        for (name, meant) in [
            ("i-0123456789abcdef0", target("i-0123456789abcdef0", None)),
            ("i-012345678", target("i-012345678", None)),
            ("i-", target("i-", None)),
            ("I-0123", USUAL),
            ("mi-0123456789abcdef0", target("mi-0123456789abcdef0", None)),
            ("mi-0", target("mi-0", None)),
            ("ecs:cluster_1_2", target("ecs:cluster_1_2", None)),
            ("ecs:cluster", target("ecs:cluster", None)),
            ("sagemaker-x:y", target("sagemaker-x:y", None)),
            ("alice+web", target("web", Some("alice"))),
            ("a+b+web", target("web", Some("a+b"))),
            ("+web", target("web", None)),
            ("alice+", target("", Some("alice"))),
            ("+", target("", None)),
            ("me+tag:a=b", target("tag:a=b", Some("me"))),
            ("CORP\\me+i-1", target("i-1", Some("CORP\\me"))),
            ("ü+ä", target("ä", Some("ü"))),
        ] {
            assert_eq!(read(name, |_| false, true), meant, "{name}");
        }
    }
}
