//! Differences between containers.

use std::collections::{BTreeMap, BTreeSet};

use super::Kind;
use super::values::{Out, below, flag, kind_of_types, list, map, other, permission, wider};
use crate::model::{Container, Layer, Resources, Secret, Tmpfs, User, Volume, VolumeMount};
use crate::words::text::{command, cpus, kind, mount, restart, size, user, visible};

/// All containers. A new one is compared with one of the same program that may do nothing else, so that all its rights are told.
pub(super) fn all(
    out: &mut Out,
    old: &BTreeMap<String, Container>,
    new: &BTreeMap<String, Container>,
    volumes: &BTreeMap<String, Volume>,
) {
    map(out, "containers", old, new, |out, key, name, old, new| match (old, new) {
        (Some(old), Some(new)) => Comparison { key, name, volumes }.compare(out, old, new),
        (None, Some(new)) => {
            let (image, command) = (visible(&new.image), command(&new.args));
            let words =
                format!("{name} may run: the command {command} of the image {image}, content {}", new.image_digest);
            out.widened(key, words);
            Comparison { key, name, volumes }.compare(out, &bare(new), new);
        }
        (Some(_), None) => out.narrowed(key, format!("{name} may not run any more")),
        (None, None) => {}
    });
}

/// The same program without rights, limits at what the new one has.
fn bare(container: &Container) -> Container {
    Container {
        capabilities: Vec::new(),
        no_new_privileges: true,
        read_only_root: true,
        tmpfs: Vec::new(),
        secrets: Vec::new(),
        logs: Default::default(),
        stdin: Default::default(),
        exec: Vec::new(),
        secret_api: false,
        restart: Default::default(),
        env_from_host: BTreeMap::new(),
        service_links: false,
        mounts: Vec::new(),
        ..container.clone()
    }
}

struct Comparison<'a> {
    key: &'a str,
    name: &'a str,
    volumes: &'a BTreeMap<String, Volume>,
}

impl Comparison<'_> {
    fn at(&self, field: &str) -> String {
        format!("{}.{field}", self.key)
    }

    fn compare(&self, out: &mut Out, old: &Container, new: &Container) {
        let name = self.name;
        let Container {
            image,
            image_digest,
            layers,
            args,
            env,
            cwd,
            user: _,
            capabilities,
            no_new_privileges,
            read_only_root,
            tmpfs: _,
            scratch_bytes,
            resources,
            secrets: _,
            logs,
            stdin,
            exec,
            secret_api,
            hostname,
            terminal,
            init,
            restart: again,
            env_from_host,
            service_links,
            mounts: _,
        } = new;
        other(out, &self.at("image"), &old.image, image, |old, new| {
            format!("{name} names its image {} instead of {}", visible(new), visible(old))
        });
        other(out, &self.at("image_digest"), &old.image_digest, image_digest, |old, new| {
            format!("{name} runs the content {new} instead of {old}")
        });
        self.layers(out, &old.layers, layers);
        other(out, &self.at("args"), &old.args, args, |old, new| {
            format!("{name} runs the command {} instead of {}", command(new), command(old))
        });
        map(out, &self.at("env"), &old.env, env, |out, key, variable, old, new| {
            let value =
                |value: Option<&String>| value.map_or("nothing".to_owned(), |value| format!("'{}'", visible(value)));
            out.changed(key, format!("the variable {variable} of {name} is {} instead of {}", value(new), value(old)));
        });
        other(out, &self.at("cwd"), &old.cwd, cwd, |old, new| {
            format!("{name} runs in {} instead of {}", visible(new), visible(old))
        });
        self.user(out, old, new);
        list(out, &self.at("capabilities"), &old.capabilities, capabilities, |right, has| match has {
            true => format!("{name} has the right {right}"),
            false => format!("{name} has not the right {right} any more"),
        });
        self.flag(
            out,
            "no_new_privileges",
            !old.no_new_privileges,
            !no_new_privileges,
            ["may gain rights by running set-user-id programs", "cannot gain rights by running set-user-id programs"],
        );
        self.flag(
            out,
            "read_only_root",
            !old.read_only_root,
            !read_only_root,
            ["may change its files", "cannot change its files"],
        );
        self.tmpfs(out, &old.tmpfs, &new.tmpfs);
        wider(out, &self.at("scratch_bytes"), &old.scratch_bytes, scratch_bytes, |old, new| {
            format!("{name} may change {} of its files instead of {}", size(*new), size(*old))
        });
        self.resources(out, &old.resources, resources);
        self.secrets(out, &old.secrets, &new.secrets);
        let words = [format!("the host can read the output of {name}"), format!("the output of {name} does not leave")];
        permission(out, &self.at("logs"), old.logs, *logs, [&words[0], &words[1]]);
        let words = [format!("{name} reads input of the host"), format!("{name} reads no input of the host")];
        permission(out, &self.at("stdin"), old.stdin, *stdin, [&words[0], &words[1]]);
        list(out, &self.at("exec"), &old.exec, exec, |args, may| match may {
            true => format!("the host may start {} in {name}", command(args)),
            false => format!("the host may not start {} in {name} any more", command(args)),
        });
        self.flag(
            out,
            "secret_api",
            old.secret_api,
            *secret_api,
            [
                "offers its secrets to every program of the pod at http://127.0.0.1:8006",
                "does not offer its secrets at http://127.0.0.1:8006",
            ],
        );
        other(out, &self.at("hostname"), &old.hostname, hostname, |old, new| {
            format!("{name} has the host name {new} instead of {old}")
        });
        other(out, &self.at("terminal"), &old.terminal, terminal, |_, new| match new {
            true => format!("{name} has a terminal"),
            false => format!("{name} has no terminal"),
        });
        other(out, &self.at("init"), &old.init, init, |old, new| {
            let place = |place: &u32| match place {
                0 => "after all init containers".to_owned(),
                place => format!("as init container {place}"),
            };
            format!("{name} runs {} instead of {}", place(new), place(old))
        });
        wider(out, &self.at("restart"), &old.restart, again, |_, new| format!("{name} {}", restart(*new)));
        map(out, &self.at("env_from_host"), &old.env_from_host, env_from_host, |out, key, variable, old, new| {
            match (old, new) {
                (None, Some(new)) => {
                    out.widened(key, format!("the host chooses the variable {variable} of {name}: {}", kind(new)));
                }
                (Some(_), None) => {
                    out.narrowed(key, format!("the host does not choose the variable {variable} of {name} any more"));
                }
                (Some(old), Some(new)) => {
                    let words = format!(
                        "the host chooses the variable {variable} of {name}: {} instead of {}",
                        kind(new),
                        kind(old)
                    );
                    out.push(kind_of_types(old, new), key, words);
                }
                (None, None) => {}
            }
        });
        self.flag(
            out,
            "service_links",
            old.service_links,
            *service_links,
            ["gets the host's variables about Services", "gets no variables about Services"],
        );
        self.mounts(out, &old.mounts, &new.mounts);
    }

    /// As [`flag`], with the container's name before the words.
    fn flag(&self, out: &mut Out, field: &str, old: bool, new: bool, [on, off]: [&str; 2]) {
        let words = [format!("{} {on}", self.name), format!("{} {off}", self.name)];
        flag(out, &self.at(field), old, new, [&words[0], &words[1]]);
    }

    fn layers(&self, out: &mut Out, old: &[Layer], new: &[Layer]) {
        let part = |layer: &Layer| {
            let Layer { verity_root, salt, data_blocks } = layer;
            (verity_root.clone(), salt.clone(), *data_blocks)
        };
        if !old.iter().map(part).eq(new.iter().map(part)) {
            let roots = |layers: &[Layer]| {
                layers
                    .iter()
                    .filter_map(|layer| layer.verity_root.get(..12))
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let words = format!("{} has the layers {} instead of {}", self.name, roots(new), roots(old));
            out.changed(self.at("layers"), words);
        }
    }

    fn user(&self, out: &mut Out, old: &Container, new: &Container) {
        let User { uid, gid, additional_gids, name } = &new.user;
        let before = &old.user;
        if (before.uid, before.gid, &before.name) != (*uid, *gid, name) {
            let kind = match (old.is_root(), new.is_root()) {
                (false, true) => Kind::Widened,
                (true, false) => Kind::Narrowed,
                _ => Kind::Changed,
            };
            let words = format!("{} runs as {} instead of {}", self.name, user(&new.user), user(&old.user));
            out.push(kind, self.at("user"), words);
        }
        let at = self.at("user.additional_gids");
        list(out, &at, &before.additional_gids, additional_gids, |gid, is| match is {
            true => format!("{} is in the group {gid}", self.name),
            false => format!("{} is not in the group {gid} any more", self.name),
        });
    }

    fn tmpfs(&self, out: &mut Out, old: &[Tmpfs], new: &[Tmpfs]) {
        let name = self.name;
        keyed(
            out,
            &self.at("tmpfs"),
            old,
            new,
            |tmpfs| &tmpfs.path,
            |out, key, path, old, new| match (old, new) {
                (None, Some(new)) => {
                    out.widened(
                        key,
                        format!("{name} has {} of scratch memory at {}", size(new.size_bytes), visible(path)),
                    );
                }
                (Some(_), None) => {
                    out.narrowed(key, format!("{name} has no scratch memory at {} any more", visible(path)))
                }
                (Some(old), Some(Tmpfs { path: _, size_bytes, mode })) => {
                    wider(out, &below(key, "size_bytes"), &old.size_bytes, size_bytes, |old, new| {
                        format!(
                            "{name} has {} of scratch memory at {} instead of {}",
                            size(*new),
                            visible(path),
                            size(*old)
                        )
                    });
                    other(out, &below(key, "mode"), &old.mode, mode, |old, new| {
                        format!(
                            "the scratch memory of {name} at {} has the mode {new:04o} instead of {old:04o}",
                            visible(path)
                        )
                    });
                }
                (None, None) => {}
            },
        );
    }

    fn resources(&self, out: &mut Out, old: &Resources, new: &Resources) {
        let name = self.name;
        let Resources { memory_bytes, cpu_millis, pids } = new;
        // No limit is wider than any limit.
        let wide = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let text = |limit: u64, text: fn(u64) -> String| match limit {
            u64::MAX => "without limit".to_owned(),
            limit => text(limit),
        };
        wider(out, &self.at("resources.memory_bytes"), &wide(old.memory_bytes), &wide(*memory_bytes), |old, new| {
            format!("{name} may use memory {} instead of {}", text(*new, size), text(*old, size))
        });
        wider(out, &self.at("resources.cpu_millis"), &wide(old.cpu_millis), &wide(*cpu_millis), |old, new| {
            format!("{name} may use CPU time {} instead of {}", text(*new, cpus), text(*old, cpus))
        });
        wider(out, &self.at("resources.pids"), &old.pids, pids, |old, new| {
            format!("{name} may have {new} processes instead of {old}")
        });
    }

    fn secrets(&self, out: &mut Out, old: &[Secret], new: &[Secret]) {
        let container = self.name;
        keyed(
            out,
            &self.at("secrets"),
            old,
            new,
            |secret| &secret.name,
            |out, key, name, old, new| match (old, new) {
                (None, Some(new)) => {
                    out.widened(
                        key,
                        format!("{container} gets the secret {name} ({}) at {}", new.resource, visible(&new.path)),
                    );
                }
                (Some(_), None) => out.narrowed(key, format!("{container} does not get the secret {name} any more")),
                (Some(old), Some(Secret { name: _, resource, path, mode })) => {
                    other(out, &below(key, "resource"), &old.resource, resource, |old, new| {
                        format!("the secret {name} of {container} is {new} instead of {old}")
                    });
                    other(out, &below(key, "path"), &old.path, path, |old, new| {
                        format!("the secret {name} of {container} is at {} instead of {}", visible(new), visible(old))
                    });
                    other(out, &below(key, "mode"), &old.mode, mode, |old, new| {
                        format!("the secret {name} of {container} has the mode {new:04o} instead of {old:04o}")
                    });
                }
                (None, None) => {}
            },
        );
    }

    fn mounts(&self, out: &mut Out, old: &[VolumeMount], new: &[VolumeMount]) {
        let name = self.name;
        keyed(
            out,
            &self.at("mounts"),
            old,
            new,
            |mount| &mount.path,
            |out, key, path, old, new| match (old, new) {
                (None, Some(new)) => out.widened(key, format!("{name} {}", mount(new, self.volumes.get(&new.volume)))),
                (Some(_), None) => out.narrowed(key, format!("{name} has no volume at {} any more", visible(path))),
                (Some(old), Some(VolumeMount { volume, path: _, sub_path, read_only })) => {
                    other(out, &below(key, "volume"), &old.volume, volume, |old, new| {
                        format!("{name} sees the volume {new} at {} instead of {old}", visible(path))
                    });
                    other(out, &below(key, "sub_path"), &old.sub_path, sub_path, |old, new| {
                        let part = |part: &Option<String>| part.as_ref().map_or("all".to_owned(), |part| visible(part));
                        format!(
                            "{name} sees {} of the volume {volume} at {} instead of {}",
                            part(new),
                            visible(path),
                            part(old)
                        )
                    });
                    let words = [
                        format!("{name} may write to the volume {volume} at {}", visible(path)),
                        format!("{name} cannot write to the volume {volume} at {}", visible(path)),
                    ];
                    flag(out, &below(key, "read_only"), !old.read_only, !read_only, [&words[0], &words[1]]);
                }
                (None, None) => {}
            },
        );
    }
}

/// Entries of a list that are known by one of their fields. Another order alone is a change.
fn keyed<T: PartialEq>(
    out: &mut Out,
    key: &str,
    old: &[T],
    new: &[T],
    name: fn(&T) -> &String,
    each: impl Fn(&mut Out, &str, &str, Option<&T>, Option<&T>),
) {
    let names: BTreeSet<&String> = old.iter().chain(new).map(name).collect();
    let order = |entries: &[T]| entries.iter().map(|entry| name(entry).clone()).collect::<Vec<_>>();
    let (before, after) = (order(old), order(new));
    for wanted in names {
        let find = |entries: &'_ [T]| entries.iter().position(|entry| name(entry) == wanted);
        let (old, new) = (find(old).and_then(|at| old.get(at)), find(new).and_then(|at| new.get(at)));
        if old != new {
            each(out, &below(key, wanted), wanted, old, new);
        }
    }
    let common = |names: Vec<String>, others: &[String]| {
        names.into_iter().filter(|name| others.contains(name)).collect::<Vec<_>>()
    };
    if common(before.clone(), &after) != common(after.clone(), &before) {
        out.changed(key, "the same entries stand in another order");
    }
}
