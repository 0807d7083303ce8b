#!/usr/bin/env bash
# Meshes clusters as the pages of Calico Enterprise tell a person to (kubeconfigs, then both halves of each pair), one
# kubectl after the other; with our kind of RemoteClusterConfiguration, whose definition each cluster gets first.
# Usage: mesh_by_hand.sh DIRECTORY CRDS NAME...    DIRECTORY has NAME.admin, a kubeconfig, for each cluster.
# ADDED=NAME: only what it takes that this one joins the others.
set -euo pipefail
directory=$1 crds=$2
shift 2
account=tigera-federation-remote-cluster system=calico-system

in_cluster() { kubectl --kubeconfig="$directory/$1.admin" "${@:2}"; }

make_kubeconfig() { # for peers of the cluster $1
    in_cluster "$1" apply --server-side -f "$crds"
    in_cluster "$1" create namespace $system
    in_cluster "$1" apply -f - <<EOF
apiVersion: v1
kind: ServiceAccount
metadata: {name: $account, namespace: kube-system}
EOF
    in_cluster "$1" apply -f - <<EOF
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: $account}
rules:
- {apiGroups: [""], resources: [nodes, namespaces, pods, serviceaccounts, services, endpoints], verbs: [get, list, watch]}
- {apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [get, list, watch]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: $account}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: $account}
subjects: [{kind: ServiceAccount, name: $account, namespace: kube-system}]
EOF
    in_cluster "$1" apply -f - <<EOF
apiVersion: v1
kind: Secret
type: kubernetes.io/service-account-token
metadata:
  name: $account
  namespace: kube-system
  annotations: {kubernetes.io/service-account.name: $account}
EOF
    local token="" view
    while [ -z "$token" ]; do
        token=$(in_cluster "$1" describe secret $account -n kube-system | sed -n 's/^token: *//p')
    done
    view=$(in_cluster "$1" config view --flatten --minify --raw)
    (umask 077; cat >"$directory/$1.peers") <<EOF
apiVersion: v1
kind: Config
users: [{name: $account, user: {token: $token}}]
clusters:
- name: $account
  cluster:
    certificate-authority-data: $(sed -n 's/^ *certificate-authority-data: *//p' <<<"$view")
    server: $(sed -n 's/^ *server: *//p' <<<"$view")
contexts: [{name: $account-ctx, context: {cluster: $account, user: $account}}]
current-context: $account-ctx
EOF
    kubectl --kubeconfig="$directory/$1.peers" get nodes
}

connect() { # in cluster $1, to cluster $2
    in_cluster "$1" create secret generic "remote-$2" -n $system \
        --from-literal=datastoreType=kubernetes --from-file=kubeconfig="$directory/$2.peers"
    in_cluster "$1" create -f - <<EOF
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: read-$2, namespace: $system}
rules: [{apiGroups: [""], resources: [secrets], resourceNames: [remote-$2], verbs: [watch, list, get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: read-$2, namespace: $system}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: read-$2}
subjects: [{kind: ServiceAccount, name: calico-typha, namespace: $system}]
EOF
    in_cluster "$1" create -f - <<EOF
apiVersion: clustermesh.io/v1alpha1
kind: RemoteClusterConfiguration
metadata: {name: $2}
spec:
  clusterAccessSecret: {name: remote-$2, namespace: $system, kind: Secret}
  syncOptions: {overlayRoutingMode: Enabled}
EOF
}

for cluster in ${ADDED:-"$@"}; do make_kubeconfig "$cluster"; done
for here in "$@"; do
    for there in "$@"; do
        [ "$here" = "$there" ] && continue
        [ -n "${ADDED:-}" ] && [ "$here" != "$ADDED" ] && [ "$there" != "$ADDED" ] && continue
        connect "$here" "$there"
    done
done
