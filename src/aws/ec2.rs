//! DescribeInstances: what EC2 knows of an instance, whether Systems Manager manages it or not.

use aws_smithy_xml::decode::{Document, ScopedDecoder, XmlDecodeError, try_data};

use super::signed::{Call, Protocol};
use super::{Aws, Error, Listed, Operation};
use crate::ssm::secret::Secret;

const VERSION: &str = "2016-11-15";
/// Instances on one page.
const PAGE: usize = 200;
/// Pages read: 10 000 instances. A choice among more is none, and names are looked up by filter.
const PAGES: usize = 50;

/// An instance, as far as reaching it is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Instance {
    /// `i-…`.
    pub id: String,
    /// `running`, `stopped`, and so on.
    pub state: String,
    /// Private IPv4 address; none once it is terminated.
    pub private_address: Option<String>,
    /// Private DNS name.
    pub private_dns_name: Option<String>,
    /// Such as `Linux/UNIX`.
    pub platform: Option<String>,
    /// The availability zone.
    pub zone: Option<String>,
    /// Keys and values.
    pub tags: Vec<(String, String)>,
}

impl Instance {
    /// The value of the tag `key`.
    pub fn tag(&self, key: &str) -> Option<&str> {
        let tag = self.tags.iter().find(|(name, _)| name == key);
        tag.map(|(_, value)| value.as_str())
            .filter(|value| !value.is_empty())
    }
}

impl Aws {
    /// The instances that pass all of `filters`, such as `("private-ip-address", ["10.0.0.7"])`; all
    /// without any.
    ///
    /// # Errors
    /// [`enum@Error`]; [`Error::AccessDenied`] is usual for those who may start sessions only.
    pub async fn describe_instances(
        &self,
        filters: &[(&str, &[String])],
    ) -> Result<Listed<Instance>, Error> {
        let mut items = Vec::new();
        let mut token = None;
        for _ in 0..PAGES {
            let call = Call {
                operation: Operation::DescribeInstances,
                protocol: Protocol::Query,
                body: Secret::new(request(filters, token.as_deref())),
            };
            let answer = self.endpoints.ec2.call(&self.ssm, &call).await?;
            let page = Page::read(&answer).map_err(|error| Error::Service {
                operation: Operation::DescribeInstances,
                retry_after: None,
                source: error.into(),
            })?;
            items.extend(page.instances);
            token = page.next_token;
            if token.is_none() {
                break;
            }
        }
        Ok(Listed {
            items,
            is_complete: token.is_none(),
        })
    }
}

/// The form that asks for a page.
fn request(filters: &[(&str, &[String])], token: Option<&str>) -> String {
    let mut form = Form::new("DescribeInstances", VERSION);
    for (number, (name, values)) in (1..).zip(filters) {
        form.put(&format!("Filter.{number}.Name"), name);
        for (at, value) in (1..).zip(values.iter()) {
            form.put(&format!("Filter.{number}.Value.{at}"), value);
        }
    }
    form.put("MaxResults", &PAGE.to_string());
    if let Some(token) = token {
        form.put("NextToken", token);
    }
    form.0
}

/// A request of the Query protocol: a form that begins with its action.
pub(super) struct Form(pub(super) String);

impl Form {
    pub(super) fn new(action: &str, version: &str) -> Self {
        Self(format!("Action={action}&Version={version}"))
    }

    pub(super) fn put(&mut self, name: &str, value: &str) {
        self.0.push('&');
        self.encode(name);
        self.0.push('=');
        self.encode(value);
    }

    /// Percent-encodes all but the unreserved characters (RFC 3986 §2.3).
    fn encode(&mut self, text: &str) {
        for byte in text.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    self.0.push(byte.into());
                }
                _ => self.0.push_str(&format!("%{byte:02X}")),
            }
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Page {
    instances: Vec<Instance>,
    next_token: Option<String>,
}

impl Page {
    /// Reads `DescribeInstancesResponse`; what is unknown is passed over.
    fn read(text: &str) -> Result<Self, XmlDecodeError> {
        let mut document = Document::new(text);
        let mut root = document.root_element()?;
        if root.start_el().local() != "DescribeInstancesResponse" {
            return Err(XmlDecodeError::custom("not an answer to DescribeInstances"));
        }
        let mut page = Self::default();
        while let Some(mut tag) = root.next_tag() {
            match tag.start_el().local() {
                "reservationSet" => page.read_reservations(&mut tag)?,
                "nextToken" => page.next_token = data(&mut tag)?,
                _ => {}
            }
        }
        Ok(page)
    }

    /// `reservationSet/item/instancesSet/item`.
    fn read_reservations(&mut self, set: &mut ScopedDecoder<'_, '_>) -> Result<(), XmlDecodeError> {
        while let Some(mut reservation) = set.next_tag() {
            while let Some(mut part) = reservation.next_tag() {
                if part.start_el().local() != "instancesSet" {
                    continue;
                }
                while let Some(mut item) = part.next_tag() {
                    let instance = Instance::read(&mut item)?;
                    if !instance.id.is_empty() {
                        self.instances.push(instance);
                    }
                }
            }
        }
        Ok(())
    }
}

impl Instance {
    fn read(item: &mut ScopedDecoder<'_, '_>) -> Result<Self, XmlDecodeError> {
        let mut instance = Self::default();
        while let Some(mut tag) = item.next_tag() {
            match tag.start_el().local() {
                "instanceId" => instance.id = data(&mut tag)?.unwrap_or_default(),
                "privateIpAddress" => instance.private_address = data(&mut tag)?,
                "privateDnsName" => instance.private_dns_name = data(&mut tag)?,
                "platformDetails" => instance.platform = data(&mut tag)?,
                "instanceState" => {
                    instance.state = member(&mut tag, "name")?.unwrap_or_default();
                }
                "placement" => instance.zone = member(&mut tag, "availabilityZone")?,
                "tagSet" => instance.tags = read_tags(&mut tag)?,
                _ => {}
            }
        }
        Ok(instance)
    }
}

/// `tagSet/item/{key, value}`.
fn read_tags(set: &mut ScopedDecoder<'_, '_>) -> Result<Vec<(String, String)>, XmlDecodeError> {
    let mut tags = Vec::new();
    while let Some(mut item) = set.next_tag() {
        let (mut key, mut value) = (None, None);
        while let Some(mut tag) = item.next_tag() {
            match tag.start_el().local() {
                "key" => key = data(&mut tag)?,
                "value" => value = data(&mut tag)?,
                _ => {}
            }
        }
        if let Some(key) = key {
            tags.push((key, value.unwrap_or_default()));
        }
    }
    Ok(tags)
}

/// The text of the element called `name` in `scope`.
pub(super) fn member(
    scope: &mut ScopedDecoder<'_, '_>,
    name: &str,
) -> Result<Option<String>, XmlDecodeError> {
    let mut found = None;
    while let Some(mut tag) = scope.next_tag() {
        if tag.start_el().local() == name {
            found = data(&mut tag)?;
        }
    }
    Ok(found)
}

/// The text of an element, if it has any.
fn data(scope: &mut ScopedDecoder<'_, '_>) -> Result<Option<String>, XmlDecodeError> {
    let text = try_data(scope)?;
    Ok((!text.is_empty()).then(|| text.into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// In the shape that the EC2 API reference shows, shortened.
    const ANSWER: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">
  <requestId>8f7724cf-496f-496e-8fe3-example</requestId>
  <reservationSet>
    <item>
      <reservationId>r-1234567890abcdef0</reservationId>
      <ownerId>123456789012</ownerId>
      <groupSet/>
      <instancesSet>
        <item>
          <instanceId>i-1234567890abcdef0</instanceId>
          <instanceState><code>16</code><name>running</name></instanceState>
          <privateDnsName>ip-192-168-1-88.eu-west-1.compute.internal</privateDnsName>
          <dnsName/>
          <placement><availabilityZone>eu-west-1c</availabilityZone><groupName/></placement>
          <privateIpAddress>192.168.1.88</privateIpAddress>
          <networkInterfaceSet><item>
            <privateIpAddress>192.168.1.99</privateIpAddress>
            <tagSet><item><key>Name</key><value>of the interface</value></item></tagSet>
          </item></networkInterfaceSet>
          <tagSet>
            <item><key>Name</key><value>R&amp;D &lt;1&gt;</value></item>
            <item><key>empty</key><value/></item>
          </tagSet>
          <platformDetails>Linux/UNIX</platformDetails>
        </item>
      </instancesSet>
    </item>
  </reservationSet>
  <nextToken>a+b=</nextToken>
</DescribeInstancesResponse>"#;

    #[test]
    fn an_answer_is_read() {
        let page = Page::read(ANSWER).unwrap();
        assert_eq!(page.next_token.as_deref(), Some("a+b="));
        let [instance] = &page.instances[..] else {
            panic!("{page:?}");
        };
        assert_eq!(instance.id, "i-1234567890abcdef0");
        assert_eq!(instance.state, "running");
        assert_eq!(instance.private_address.as_deref(), Some("192.168.1.88"));
        assert_eq!(instance.zone.as_deref(), Some("eu-west-1c"));
        assert_eq!(instance.tag("Name"), Some("R&D <1>"));
        assert_eq!(instance.tag("empty"), None);
    }

    #[test]
    fn a_request_is_a_form() {
        let values = ["a b&c=\u{e4}".to_owned()];
        assert_eq!(
            request(&[("tag:Name", &values)], Some("a+b=")),
            "Action=DescribeInstances&Version=2016-11-15&Filter.1.Name=tag%3AName\
             &Filter.1.Value.1=a%20b%26c%3D%C3%A4&MaxResults=200&NextToken=a%2Bb%3D"
        );
    }

    #[test]
    fn another_document_is_an_error() {
        for text in ["", "{}", "<html/>", "<DescribeTagsResponse/>"] {
            assert!(Page::read(text).is_err(), "{text}");
        }
    }

    proptest! {
        /// However an answer is cut or spoilt, reading it ends.
        #[test]
        fn a_spoilt_answer_is_read_to_an_end(at in 0..ANSWER.len(), with in "[<>/&;a-z ]{0,6}") {
            let text = format!("{}{with}{}", &ANSWER[..at], &ANSWER[(at + with.len()).min(ANSWER.len())..]);
            let _ = Page::read(&text);
            let _ = Page::read(&ANSWER[..at]);
        }
    }
}
