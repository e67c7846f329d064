#!/usr/bin/env bash
# Kubernetes 1.20.2 for the test cluster, from Debian bookworm's source package with Debian's Go, into $K8S_BIN (273 MiB).
# Once: about 7 minutes on two cores; a stamp says whether what lies there is whole and of this kind.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/env.sh"
version='1.20.5+really1.20.2'
programs="kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl"
tags=providerless,dockerless
go=/usr/lib/go-1.19

mkdir -p "$K8S_BIN"
exec 9>"$K8S_BIN.lock"
flock 9

kind="kubernetes $version $tags"
fresh() { [ -f stamp ] && [ "$(head -n 1 stamp)" = "$kind" ] && tail -n +2 stamp | sha256sum --check --quiet --strict >/dev/null 2>&1; }
cd "$K8S_BIN"
if fresh; then exit 0; fi
rm -f stamp

work=$cache/k8s-build
source=$work/kubernetes-$version
mkdir -p "$work/home"
cd "$work"
if [ ! -f "$source/.unpacked" ]; then
  rm -rf "$source"
  # Lists of its own, so that the machine's sources stay as they are.
  mkdir -p apt/lists/partial apt/cache/archives/partial
  mirror=$(sed -n 's/^URIs: *//p; s/^deb \(\[[^]]*\] \)\?\([^ ]*\) .*/\2/p' /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep '/debian/\?$' | head -n 1 || true)
  [ -n "$mirror" ] || { echo "build: no Debian mirror in the apt sources" >&2; exit 1; }
  echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bookworm main" >apt/sources.list
  apt() {
    apt-get -qq -o Dir::Etc::sourcelist="$work/apt/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/apt/lists" \
      -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
  }
  echo "build: fetching the source of Kubernetes $version" >&2
  apt update
  apt source kubernetes >&2
  touch "$source/.unpacked"
fi

echo "build: Kubernetes $version into $K8S_BIN (minutes, once)" >&2
cd "$source"
# In GOPATH mode, as Debian's own rules build it: 1.20's go.mod does not pass -mod=vendor of a newer Go. Nothing is fetched.
export PATH=$go/bin:$PATH HOME=$work/home GOPATH=$source/.go CGO_ENABLED=0 GOPROXY=off GO111MODULE=off GOTOOLCHAIN=local
export GOFLAGS=-tags=$tags GOLDFLAGS="-s -w"
export KUBE_GIT_VERSION=v1.20.2 KUBE_GIT_TREE_STATE=archive KUBE_GIT_COMMIT=debian KUBE_GIT_MAJOR=1 KUBE_GIT_MINOR=20
mkdir -p .go/src/k8s.io
ln -sfn ../../.. .go/src/k8s.io/kubernetes
# shellcheck disable=SC2046,SC2086
make WHAT="$(printf 'cmd/%s ' $programs)" >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
for program in $programs; do install -m 0755 "_output/local/bin/linux/amd64/$program" "$K8S_BIN/$program"; done
cd "$K8S_BIN"
# shellcheck disable=SC2086
{ echo "$kind"; sha256sum $programs; } >stamp.new
mv stamp.new stamp
rm -rf "$work"
