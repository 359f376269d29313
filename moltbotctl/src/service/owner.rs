//! Who started a process: which service manager, a container, or a person.

use std::{fs, path::Path};

use serde_json::{Value, json};

/// Programs that are a container's first process on behalf of another one.
const INITS: [&str; 5] = ["docker-init", "tini", "tini-static", "dumb-init", "catatonit"];

/// Who looks after a running gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A unit of the system's manager.
    System {
        /// Its name.
        unit: String,
    },
    /// A unit of a user's manager.
    User {
        /// Whose.
        uid: u32,
        /// Its name.
        unit: String,
    },
    /// A job of launchd.
    Launchd {
        /// Its label.
        label: String,
    },
    /// Whoever runs the container: it ends with this process.
    Container,
    /// Nobody: it was started by hand.
    Foreground,
    /// It cannot be told.
    Unknown,
}

impl Owner {
    /// Looks at a process of a Linux host.
    #[must_use]
    pub fn of_pid(root: &Path, pid: u32) -> Self {
        let groups = fs::read_to_string(root.join(format!("proc/{pid}/cgroup")));
        let Ok(groups) = groups else { return Self::Unknown };
        let inside = ["run/.containerenv", ".dockerenv"].iter().any(|it| root.join(it).exists());
        // A container may have a manager of its own.
        let of_unit = group(&groups).is_some_and(|path| path.ends_with(".service"));
        match Self::of_groups(&groups) {
            Self::Foreground if inside && is_main(root, pid) => Self::Container,
            Self::Container if !of_unit && !is_main(root, pid) => Self::Foreground,
            owner => owner,
        }
    }

    /// Reads `/proc/PID/cgroup`.
    #[must_use]
    pub fn of_groups(text: &str) -> Self {
        let Some(path) = group(text) else { return Self::Unknown };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        if parts.iter().any(|part| is_container(part)) {
            return Self::Container;
        }
        let unit = parts.iter().rposition(|part| part.ends_with(".service"));
        let user = parts.iter().position(|part| part.starts_with("user@"));
        let uid = user
            .and_then(|at| parts[at].strip_prefix("user@")?.strip_suffix(".service")?.parse().ok());
        match (unit, user, uid) {
            // Terminals run in services of their own, in scopes below these.
            (Some(unit), ..) if parts[unit + 1..].iter().any(|it| it.ends_with(".scope")) => {
                Self::Foreground
            }
            (Some(unit), Some(user), Some(uid)) if unit > user => {
                Self::User { uid, unit: parts[unit].to_owned() }
            }
            (Some(unit), None, _) => Self::System { unit: parts[unit].to_owned() },
            _ => Self::Foreground,
        }
    }

    /// Returns whether a process of this group would be ended with the unit.
    #[must_use]
    pub fn is_unit(&self) -> bool {
        matches!(self, Self::System { .. } | Self::User { .. })
    }

    /// Returns it for programs.
    #[must_use]
    pub fn report(&self) -> Value {
        match self {
            Self::System { unit } => {
                json!({ "manager": "systemd", "scope": "system", "unit": unit })
            }
            Self::User { uid, unit } => {
                json!({ "manager": "systemd", "scope": "user", "uid": uid, "unit": unit })
            }
            Self::Launchd { label } => json!({ "manager": "launchd", "unit": label }),
            Self::Container => json!({ "manager": "container" }),
            Self::Foreground => json!({ "manager": "none" }),
            Self::Unknown => json!({ "manager": "unknown" }),
        }
    }

    /// Returns it for people.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::System { unit } => format!("{unit} of the system's systemd"),
            Self::User { uid, unit } => format!("{unit} of the systemd of user {uid}"),
            Self::Launchd { label } => format!("{label} of launchd"),
            Self::Container => "a container".into(),
            Self::Foreground => "nobody: it was started by hand".into(),
            Self::Unknown => "unknown".into(),
        }
    }
}

/// Returns whether a container ends with this process: it is the first one in
/// there, or what the first one was told to run where that is an init.
fn is_main(root: &Path, pid: u32) -> bool {
    let Some(own) = Process::read(root, pid) else { return false };
    if own.pid_inside == 1 {
        return true;
    }
    let Some(parent) = Process::read(root, own.parent) else { return false };
    if parent.pid_inside != 1 || !INITS.contains(&&*parent.name) {
        return false;
    }
    // What was left behind by others is the init's child too, and younger.
    let children = root.join(format!("proc/{0}/task/{0}/children", own.parent));
    let children = fs::read_to_string(children).unwrap_or_default();
    let mut others = children.split_whitespace().filter_map(|child| child.parse().ok());
    !others.any(|other: u32| {
        Process::read(root, other).is_some_and(|it| it.pid_inside < own.pid_inside)
    })
}

/// What the kernel says about a process.
struct Process {
    name: String,
    parent: u32,
    /// Its id in the innermost namespace, which is that of its container.
    pid_inside: u32,
}

impl Process {
    fn read(root: &Path, pid: u32) -> Option<Self> {
        let status = fs::read_to_string(root.join(format!("proc/{pid}/status"))).ok()?;
        let field = |name: &str| {
            status.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
        };
        // Kernels before 4.1 do not tell the ids inside.
        let inside = field("NSpid").or_else(|| field("Pid"))?.split_whitespace().last()?;
        Some(Self {
            name: field("Name")?.to_owned(),
            parent: field("PPid")?.parse().ok()?,
            pid_inside: inside.parse().ok()?,
        })
    }
}

/// Returns the group in the unified hierarchy, or the one systemd has of its
/// own beside older hierarchies.
fn group(text: &str) -> Option<&str> {
    let of = |name: &str| {
        text.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            (fields.next() == Some(name)).then(|| fields.next()).flatten()
        })
    };
    let own = of("name=systemd").filter(|path| *path != "/");
    own.or_else(|| of(""))
}

fn is_container(part: &str) -> bool {
    let names = ["docker", "libpod", "kubepods", "crio", "cri-containerd", "lxc.payload"];
    names.iter().any(|name| part.strip_prefix(name).is_some_and(|rest| !rest.starts_with(".serv")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Owner {
        Owner::of_groups(&format!("0::{path}\n"))
    }

    #[test]
    fn the_group_tells_who_started_a_process() {
        let unit = || "moltbotd.service".to_owned();
        assert_eq!(of("/system.slice/moltbotd.service"), Owner::System { unit: unit() });
        let instance = "/system.slice/system-moltbotd.slice/moltbotd@a.service";
        assert_eq!(of(instance), Owner::System { unit: "moltbotd@a.service".into() });
        let user = "/user.slice/user-1000.slice/user@1000.service/app.slice/moltbotd.service";
        assert_eq!(of(user), Owner::User { uid: 1000, unit: unit() });
        assert_eq!(of("/user.slice/user-1000.slice/session-3.scope"), Owner::Foreground);
        let terminal = "/user.slice/user-1000.slice/user@1000.service/app.slice/\
                        app-org.gnome.Terminal.slice/vte-spawn-1.scope";
        assert_eq!(of(terminal), Owner::Foreground);
        let below = "/user.slice/user-1000.slice/user@1000.service/app.slice/term.service/1.scope";
        assert_eq!(of(below), Owner::Foreground);
        assert_eq!(of("/system.slice/docker-0123.scope"), Owner::Container);
        assert_eq!(of("/kubepods.slice/kubepods-pod1.slice/x.scope"), Owner::Container);
        assert_eq!(
            of("/system.slice/docker.service"),
            Owner::System { unit: "docker.service".into() }
        );
        assert_eq!(of("/"), Owner::Foreground);
        assert_eq!(Owner::of_groups(""), Owner::Unknown);
    }

    /// A host's `/proc`, as far as it is looked at.
    fn processes(list: &[(u32, u32, u32, &str)], group: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (pid, inside, parent, name) in list {
            let folder = root.path().join(format!("proc/{pid}/task/{pid}"));
            fs::create_dir_all(&folder).unwrap();
            let status =
                format!("Name:\t{name}\nPid:\t{pid}\nPPid:\t{parent}\nNSpid:\t{pid}\t{inside}\n");
            let children = list.iter().filter(|child| child.2 == *pid);
            let children: Vec<_> = children.map(|child| child.0.to_string()).collect();
            fs::write(folder.join("children"), children.join(" ")).unwrap();
            let process = root.path().join(format!("proc/{pid}"));
            fs::write(process.join("status"), status).unwrap();
            fs::write(process.join("cgroup"), format!("0::{group}\n")).unwrap();
        }
        root
    }

    #[test]
    fn a_container_looks_after_nothing_but_its_main_process() {
        let list = [
            (100, 1, 1, "moltbotd"),
            (101, 9, 100, "moltbotd"),
            (200, 1, 1, "tini"),
            (203, 11, 200, "moltbotd"),
            (202, 7, 200, "moltbotd"),
            (300, 1, 1, "bash"),
            (301, 8, 300, "moltbotd"),
        ];
        let outside = processes(&list, "/system.slice/docker-0123.scope");
        let inside = processes(&list, "/");
        fs::write(inside.path().join(".dockerenv"), "").unwrap();
        for (pid, owner) in [
            (100, Owner::Container),
            (101, Owner::Foreground),
            (202, Owner::Container),
            (203, Owner::Foreground),
            (301, Owner::Foreground),
        ] {
            assert_eq!(Owner::of_pid(outside.path(), pid), owner, "{pid}");
            assert_eq!(Owner::of_pid(inside.path(), pid), owner, "{pid}");
        }
        let managed = processes(&list, "/lxc.payload.a/system.slice/moltbotd.service");
        assert_eq!(Owner::of_pid(managed.path(), 301), Owner::Container);
    }

    #[test]
    fn older_hierarchies_are_read() {
        let text = "12:memory:/x\n1:name=systemd:/system.slice/moltbotd.service\n0::/\n";
        assert_eq!(Owner::of_groups(text), Owner::System { unit: "moltbotd.service".into() });
    }
}
