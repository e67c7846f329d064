#!/usr/bin/env bash
# A certificate authority, certificates and kubeconfigs for the cluster, in $K8S_RUN/pki. Fresh with every cluster.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/env.sh"
pki=$K8S_RUN/pki
mkdir -p -m 0700 "$pki"
cd "$pki"

key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1.key"; }
key ca
openssl req -x509 -new -key ca.key -days 30 -subj /CN=belljar-test-ca -out ca.crt \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,digitalSignature

# certificate NAME SUBJECT [SUBJECT_ALT_NAMES]
certificate() {
  key "$1"
  printf 'keyUsage=critical,digitalSignature,keyEncipherment\nextendedKeyUsage=serverAuth,clientAuth\n%s\n' "${3:+subjectAltName=$3}" >"$1.ext"
  openssl req -new -key "$1.key" -subj "$2" |
    openssl x509 -req -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -extfile "$1.ext" -out "$1.crt" 2>/dev/null
  rm "$1.ext"
}
certificate apiserver /CN=kube-apiserver "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:localhost,IP:127.0.0.1,IP:$NODE_IP,IP:$SERVICE_IP"
certificate apiserver-kubelet /O=system:masters/CN=apiserver-kubelet-client
certificate front-proxy /CN=front-proxy
certificate admin /O=system:masters/CN=admin
certificate scheduler /CN=system:kube-scheduler
certificate kube-proxy /CN=system:kube-proxy
certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP"
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null

for user in admin scheduler kube-proxy kubelet; do
  cat >$user.conf <<K
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://$NODE_IP:6443", certificate-authority: $pki/ca.crt}}]
users: [{name: user, user: {client-certificate: $pki/$user.crt, client-key: $pki/$user.key}}]
contexts: [{name: test, context: {cluster: test, user: user}}]
current-context: test
K
done
