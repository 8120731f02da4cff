//! Whether a name can be a region's. Pure.
//!
//! New regions come every year, so this knows how they are named, not which there are.

use super::Error;

/// Where on the map: the last word but one of every region's name.
const DIRECTIONS: [&str; 9] = [
    "north",
    "south",
    "east",
    "west",
    "central",
    "northeast",
    "northwest",
    "southeast",
    "southwest",
];
/// The first words: continents, countries, and the European sovereign cloud.
const PLACES: [&str; 11] = [
    "af", "ap", "ca", "cn", "eu", "eusc", "il", "me", "mx", "sa", "us",
];
/// Partitions within a place.
const REALMS: [&str; 6] = ["gov", "iso", "isob", "isoe", "isof", "de"];

/// Refuses what is no region, before a name is looked up that nobody has.
///
/// # Errors
/// [`Error::UnknownRegion`], with what may have been meant.
pub(super) fn check(region: &str) -> Result<(), Error> {
    if is_possible(region) {
        return Ok(());
    }
    let hint = match likely(region) {
        Some(likely) => format!("is {likely} meant? regions are named as in eu-central-1"),
        None => "regions are named as in eu-central-1: pass --region or set AWS_REGION".to_owned(),
    };
    Err(Error::UnknownRegion {
        region: region
            .chars()
            .filter(|c| !c.is_control())
            .take(64)
            .collect(),
        hint,
    })
}

/// `place[-realm]-direction-number`.
fn is_possible(region: &str) -> bool {
    let words: Vec<_> = region.split('-').collect();
    let (direction, number) = match words[..] {
        [place, direction, number] if is_place(place) => (direction, number),
        [place, realm, direction, number] if is_place(place) && REALMS.contains(&realm) => {
            (direction, number)
        }
        _ => return false,
    };
    let is_number = (1..=2).contains(&number.len()) && number.bytes().all(|c| c.is_ascii_digit());
    DIRECTIONS.contains(&direction) && is_number
}

/// A place nobody has thought of yet is a country's code.
fn is_place(word: &str) -> bool {
    PLACES.contains(&word) || (word.len() == 2 && word.bytes().all(|c| c.is_ascii_lowercase()))
}

/// The one region that `region` is a misspelling of, if there is just one.
fn likely(region: &str) -> Option<String> {
    let text = region.trim().to_ascii_lowercase().replace(['_', ' '], "-");
    // An availability zone has a letter more.
    let zone = text.strip_suffix(|c: char| c.is_ascii_lowercase());
    let zone = zone.filter(|region| region.ends_with(|c: char| c.is_ascii_digit()));
    let text = zone.unwrap_or(&text);
    let letters = text.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = match &text[letters.len()..] {
        "" => "1",
        number => number,
    };
    let mut words = letters.split('-').filter(|word| !word.is_empty());
    let first = words.next()?;
    // `useast1`
    let place = PLACES.iter().find(|place| **place == first);
    let place = place.or_else(|| PLACES.iter().find(|place| first.starts_with(**place)))?;
    let rest: String = std::iter::once(&first[place.len()..])
        .chain(words)
        .collect();
    let realm = REALMS.iter().find(|realm| rest.starts_with(**realm));
    let rest = rest.strip_prefix(*realm.unwrap_or(&"")).unwrap_or(&rest);
    let direction = DIRECTIONS
        .iter()
        .map(|direction| (distance(rest, direction), direction))
        .min()
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, direction)| direction)?;
    let realm = realm.map_or_else(String::new, |realm| format!("{realm}-"));
    let likely = format!("{place}-{realm}{direction}-{number}");
    is_possible(&likely).then_some(likely)
}

/// Letters to insert, drop or replace (Levenshtein); both are a few letters long.
fn distance(left: &str, right: &str) -> usize {
    if left.len() > 32 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (above, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (at, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[at + 1];
            row[at + 1] = replaced.min(row[at] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_region_is_possible() {
        for region in [
            "af-south-1",
            "ap-east-1",
            "ap-northeast-3",
            "ap-south-2",
            "ap-southeast-7",
            "ca-west-1",
            "cn-north-1",
            "cn-northwest-1",
            "eu-central-2",
            "eu-isoe-west-1",
            "eu-north-1",
            "eusc-de-east-1",
            "il-central-1",
            "me-central-1",
            "mx-central-1",
            "sa-east-1",
            "us-east-2",
            "us-gov-west-1",
            "us-iso-east-1",
            "us-isob-east-1",
            "us-isof-south-1",
            "us-west-2",
        ] {
            assert!(check(region).is_ok(), "{region}");
        }
    }

    #[test]
    fn slips_are_told_before_the_network_is_asked() {
        for (region, meant) in [
            ("us-east1", Some("us-east-1")),
            ("useast1", Some("us-east-1")),
            ("US-EAST-1", Some("us-east-1")),
            ("eu-cental-1", Some("eu-central-1")),
            ("eu_central_1", Some("eu-central-1")),
            ("us-west-2a", Some("us-west-2")),
            ("us-gov-wst-1", Some("us-gov-west-1")),
            ("eu-central", Some("eu-central-1")),
            ("frankfurt", None),
            ("", None),
            ("-", None),
            ("\u{e4}", None),
            ("us-east-100", None),
            ("us-east-1.example.com", None),
        ] {
            let Err(Error::UnknownRegion { hint, .. }) = check(region) else {
                panic!("{region} passes")
            };
            let expected = meant.map(|meant| format!("is {meant} meant?"));
            assert_eq!(
                hint.split('?')
                    .next()
                    .map(|start| format!("{start}?"))
                    .filter(|_| meant.is_some()),
                expected,
                "{region}: {hint}"
            );
        }
    }
}
