//! Where a service is: the rules of AWS's endpoint names, and what the user configured instead.

use aws_config::SdkConfig;

use crate::ssm::api::configured_endpoint;

/// A service that is called without an SDK.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    Ec2,
    InstanceConnect,
    Sts,
    /// Systems Manager; the SDK calls it, by the same rules.
    Ssm,
    /// The message gateway; the URL of each session names it, this is where it usually is.
    Messages,
}

/// What of the configuration decides on a name.
#[derive(Debug, Clone, Copy, Default)]
struct Variant {
    fips: bool,
    dual_stack: bool,
}

impl Service {
    /// The name in signatures, and the first label of the endpoint's name.
    pub(super) fn signing_name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::InstanceConnect => "ec2-instance-connect",
            Self::Sts => "sts",
            Self::Ssm => "ssm",
            Self::Messages => "ssmmessages",
        }
    }

    /// The id in AWS's models; in upper case and with underscores, the end of `AWS_ENDPOINT_URL_…`.
    fn id(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::InstanceConnect => "EC2 Instance Connect",
            Self::Sts => "STS",
            Self::Ssm => "SSM",
            Self::Messages => "SSMMESSAGES",
        }
    }

    /// The endpoint's URL, or `None` when `region` cannot be a part of a host name.
    ///
    /// A configured endpoint wins, then AWS's rules: as in the SDK's own clients.
    pub(super) fn url(self, config: &SdkConfig, region: &str) -> Option<String> {
        let variant = Variant {
            fips: config.use_fips().unwrap_or_default(),
            dual_stack: config.use_dual_stack().unwrap_or_default(),
        };
        let configured = configured_endpoint(config, self.id());
        configured.or_else(|| self.usual_url(region, variant))
    }

    fn usual_url(self, region: &str, variant: Variant) -> Option<String> {
        let is_label = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if region.is_empty() || region.len() > 63 || !region.bytes().all(is_label) {
            return None;
        }
        let (suffix, dual_stack_suffix) = suffixes(region);
        let name = self.signing_name();
        // GovCloud's plain names are FIPS already, but for the younger service.
        let has_fips_name =
            !region.starts_with("us-gov-") || variant.dual_stack || self == Self::InstanceConnect;
        let fips = if variant.fips && has_fips_name {
            "-fips"
        } else {
            ""
        };
        let suffix = if variant.dual_stack {
            dual_stack_suffix
        } else {
            suffix
        };
        Some(format!("https://{name}{fips}.{region}.{suffix}"))
    }
}

/// The domains of the region's partition: the usual one, and that of dual-stack names.
fn suffixes(region: &str) -> (&'static str, &'static str) {
    const PARTITIONS: [(&str, &str, &str); 7] = [
        ("cn-", "amazonaws.com.cn", "api.amazonwebservices.com.cn"),
        ("us-iso-", "c2s.ic.gov", "api.aws.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov", "api.aws.scloud"),
        ("us-isof-", "csp.hci.ic.gov", "api.aws.hci.ic.gov"),
        ("eu-isoe-", "cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"),
        ("eusc-", "amazonaws.eu", "api.amazonwebservices.eu"),
        ("", "amazonaws.com", "api.aws"),
    ];
    PARTITIONS
        .iter()
        .find(|(prefix, ..)| region.starts_with(prefix))
        .map_or(("amazonaws.com", "api.aws"), |(_, usual, dual)| {
            (usual, dual)
        })
}

#[cfg(test)]
mod tests {
    use aws_config::Region;

    use super::*;

    #[test]
    fn names_follow_partition_and_variant() {
        let plain = Variant::default();
        let fips = Variant {
            fips: true,
            ..plain
        };
        let dual = Variant {
            dual_stack: true,
            ..plain
        };
        for (service, region, variant, url) in [
            (
                Service::Ec2,
                "eu-central-1",
                plain,
                "https://ec2.eu-central-1.amazonaws.com",
            ),
            (
                Service::Ec2,
                "us-east-1",
                fips,
                "https://ec2-fips.us-east-1.amazonaws.com",
            ),
            (
                Service::Ec2,
                "us-gov-west-1",
                fips,
                "https://ec2.us-gov-west-1.amazonaws.com",
            ),
            (
                Service::Ec2,
                "us-east-1",
                dual,
                "https://ec2.us-east-1.api.aws",
            ),
            (
                Service::Sts,
                "cn-north-1",
                plain,
                "https://sts.cn-north-1.amazonaws.com.cn",
            ),
            (
                Service::Sts,
                "us-iso-east-1",
                plain,
                "https://sts.us-iso-east-1.c2s.ic.gov",
            ),
            (
                Service::Sts,
                "us-isob-east-1",
                plain,
                "https://sts.us-isob-east-1.sc2s.sgov.gov",
            ),
            (
                Service::InstanceConnect,
                "us-gov-east-1",
                fips,
                "https://ec2-instance-connect-fips.us-gov-east-1.amazonaws.com",
            ),
        ] {
            assert_eq!(service.usual_url(region, variant).as_deref(), Some(url));
        }
    }

    #[test]
    fn a_region_that_is_no_label_has_no_endpoint() {
        for region in [
            "",
            "x/y",
            "a.b",
            "user@host",
            "a b",
            "\u{e4}",
            &"x".repeat(64),
        ] {
            assert_eq!(
                Service::Ec2.usual_url(region, Variant::default()),
                None,
                "{region}"
            );
        }
    }

    #[test]
    fn an_endpoint_set_in_code_wins() {
        let config = SdkConfig::builder()
            .region(Region::new("us-east-1"))
            .endpoint_url("http://127.0.0.1:1")
            .build();
        let url = Service::Ec2.url(&config, "us-east-1");
        assert_eq!(url.as_deref(), Some("http://127.0.0.1:1"));
    }
}
