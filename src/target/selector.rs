//! A target as it is written.

use std::net::IpAddr;

/// What a person typed to name a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// An id that StartSession takes as it is.
    Id(Id),
    /// `tag:Key=Value`.
    Tag {
        /// The tag's key.
        key: String,
        /// Its whole value.
        value: String,
    },
    /// A private address.
    Address(IpAddr),
    /// The value of the tag Name, the computer's name, or a private DNS name.
    Name(String),
}

/// An id, by what it is the id of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// `i-…`: an EC2 instance.
    Instance(String),
    /// `mi-…`: a machine registered by an activation.
    Node(String),
    /// `ecs:cluster_task_runtime`: a container.
    Container(String),
    /// `sagemaker-…:…`: a training job, endpoint or cluster node.
    SageMaker(String),
}

impl Id {
    /// The id as StartSession takes it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Instance(id) | Self::Node(id) | Self::Container(id) | Self::SageMaker(id) => id,
        }
    }

    /// Cluster and task of a container.
    pub fn task(&self) -> Option<(&str, &str)> {
        let Self::Container(id) = self else {
            return None;
        };
        let (task, _runtime) = id.strip_prefix("ecs:")?.rsplit_once('_')?;
        task.rsplit_once('_')
    }
}

impl Selector {
    /// Reads `text`. Nothing is wrong here: what has no other form is a name.
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        if let Some(id) = parse_id(text) {
            return Self::Id(id);
        }
        if let Some((key, value)) = text
            .strip_prefix("tag:")
            .and_then(|tag| tag.split_once('='))
        {
            return Self::Tag {
                key: key.to_owned(),
                value: value.to_owned(),
            };
        }
        match text.parse() {
            Ok(address) => Self::Address(address),
            Err(_) => Self::Name(text.to_owned()),
        }
    }
}

fn parse_id(text: &str) -> Option<Id> {
    let is_hex = |rest: &str| {
        (8..=17).contains(&rest.len())
            && rest
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_plain = |text: &str| {
        text.len() <= 400
            && text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte))
    };
    let id = text.to_owned();
    if text.strip_prefix("i-").is_some_and(is_hex) {
        return Some(Id::Instance(id));
    }
    if text.strip_prefix("mi-").is_some_and(is_hex) {
        return Some(Id::Node(id));
    }
    let parts = text.strip_prefix("ecs:").map(|rest| rest.split('_'));
    // A cluster's name may contain underscores, task and runtime id do not.
    if parts.is_some_and(|parts| parts.clone().count() >= 3 && parts.clone().all(|p| !p.is_empty()))
        && is_plain(text)
    {
        return Some(Id::Container(id));
    }
    let (kind, name) = text.strip_prefix("sagemaker-")?.split_once(':')?;
    (!kind.is_empty() && !name.is_empty() && is_plain(text)).then_some(Id::SageMaker(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_known_by_their_form() {
        for (text, id) in [
            ("i-0123456789abcdef0", Id::Instance as fn(String) -> Id),
            ("i-1234abcd", Id::Instance),
            ("mi-0123456789abcdef0", Id::Node),
            ("ecs:prod_0f3e_0f3e-123", Id::Container),
            ("ecs:my_cluster_0f3e_0f3e-123", Id::Container),
            ("sagemaker-training-job:train-1_algo-1", Id::SageMaker),
            ("sagemaker-cluster:abc_group-i-0123", Id::SageMaker),
        ] {
            assert_eq!(
                Selector::parse(text),
                Selector::Id(id(text.into())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_container_is_of_a_task() {
        for (id, task) in [
            ("ecs:prod_0f3e_0f3e-123", Some(("prod", "0f3e"))),
            ("ecs:my_cluster_0f3e_0f3e-123", Some(("my_cluster", "0f3e"))),
            ("sagemaker-training-job:train_1_algo", None),
        ] {
            assert_eq!(parse_id(id).unwrap().task(), task, "{id}");
        }
    }

    #[test]
    fn everything_else_has_a_form_too() {
        let tag = |key: &str, value: &str| Selector::Tag {
            key: key.into(),
            value: value.into(),
        };
        assert_eq!(Selector::parse("tag:env=prod"), tag("env", "prod"));
        assert_eq!(Selector::parse("tag:a:b=c=d "), tag("a:b", "c=d"));
        for text in ["10.0.0.7", "fd00::7"] {
            let address = text.parse().unwrap();
            assert_eq!(Selector::parse(text), Selector::Address(address));
        }
        for text in [
            "web-1",
            "i-web",
            "i-12",
            "mi-",
            "ecs:cluster",
            "ecs:a__b",
            "tag:env",
            "sagemaker-x",
            "ip-10-0-0-7.ec2.internal",
            "10.0.0",
            "I-1234ABCD",
        ] {
            assert_eq!(Selector::parse(text), Selector::Name(text.into()));
        }
    }
}
