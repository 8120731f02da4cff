//! The user names that the images of a platform come with.

use super::machine::Machine;

/// Who to log in as on `machine` when nobody has said: the names that its platform's images have, the
/// likeliest first, and then `own`, the name of the person here.
///
/// A machine that is not EC2's has users of its own, so there `own` is the likeliest. At most four.
pub fn of(machine: &Machine, own: &str) -> Vec<String> {
    let platform = machine.platform_name.as_deref().unwrap_or_default();
    let mut names: Vec<&str> = by_platform(&platform.to_ascii_lowercase(), machine).into();
    if machine.id.starts_with("i-") {
        // Images let root in only to say that it is the wrong name.
        if names.is_empty() || own != "root" {
            names.push(own);
        }
    } else {
        names.insert(0, own);
    }
    let mut users: Vec<String> = Vec::new();
    for name in names {
        if !name.is_empty() && !users.iter().any(|known| known == name) {
            users.push(name.to_owned());
        }
    }
    users
}

/// By the beginning of the name as `/etc/os-release` has it, which is what the agent tells.
fn by_platform(platform: &str, machine: &Machine) -> &'static [&'static str] {
    const PLATFORMS: [(&str, &[&str]); 20] = [
        ("amazon linux", &["ec2-user"]),
        ("ubuntu", &["ubuntu"]),
        ("debian", &["admin", "debian"]),
        ("red hat", &["ec2-user", "cloud-user"]),
        ("rhel", &["ec2-user", "cloud-user"]),
        ("centos", &["centos", "ec2-user"]),
        ("rocky", &["rocky", "ec2-user"]),
        ("almalinux", &["ec2-user", "almalinux"]),
        ("oracle", &["ec2-user", "opc"]),
        ("fedora", &["fedora", "ec2-user"]),
        ("suse", &["ec2-user"]),
        ("sles", &["ec2-user"]),
        ("opensuse", &["ec2-user"]),
        ("bottlerocket", &["ec2-user"]),
        ("arch", &["arch"]),
        ("alpine", &["alpine"]),
        ("kali", &["kali"]),
        ("raspbian", &["pi"]),
        ("mac", &["ec2-user"]),
        ("microsoft windows", &["Administrator"]),
    ];
    let known = PLATFORMS
        .iter()
        .find(|(start, _)| platform.starts_with(start));
    match known {
        Some((_, users)) => users,
        None if machine.platform_type.as_deref() == Some("Windows") => &["Administrator"],
        None => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn users(id: &str, platform: &str) -> Vec<String> {
        let machine = Machine {
            platform_name: Some(platform.into()),
            ..Machine::unknown(id)
        };
        of(&machine, "me")
    }

    #[test]
    fn the_platform_decides_in_ec2() {
        assert_eq!(users("i-1", "Amazon Linux"), ["ec2-user", "me"]);
        assert_eq!(users("i-1", "Ubuntu"), ["ubuntu", "me"]);
        assert_eq!(users("i-1", "Debian GNU/Linux"), ["admin", "debian", "me"]);
        assert_eq!(users("i-1", "CentOS Stream"), ["centos", "ec2-user", "me"]);
        assert_eq!(
            users("i-1", "Microsoft Windows Server 2022 Datacenter"),
            ["Administrator", "me"]
        );
    }

    #[test]
    fn elsewhere_it_comes_second() {
        assert_eq!(users("mi-1", "Ubuntu"), ["me", "ubuntu"]);
        assert_eq!(users("i-1", "Plan 9"), ["me"]);
        assert_eq!(of(&Machine::unknown("ecs:a_b_c"), "root"), ["root"]);
        let mut windows = Machine::unknown("mi-1");
        windows.platform_type = Some("Windows".into());
        assert_eq!(of(&windows, "Administrator"), ["Administrator"]);
    }
}
