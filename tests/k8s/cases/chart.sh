# The chart by itself: no cluster is needed.

chart=$repo/charts/goldleaf
render() { helm template goldleaf "$chart" --namespace goldleaf --set node=node-1 "$@"; }

# kinds MANIFESTS: "Kind/name" of each object, sorted.
kinds() { awk '/^kind: /{kind=$2} /^  name: /{if (kind) print kind "/" $2; kind=""}' | sort; }

the_chart_is_sound() {
  helm lint --strict --set node=node-1 "$chart"
  helm lint --strict --values "$here/values.yaml" "$chart"
}

the_chart_makes_these_objects() {
  local everything
  everything=$(render)
  equal "the chart's objects" "$(tr ' ' '\n' <<<"CSIDriver/csi.goldleaf.dev ClusterRole/goldleaf-csi-controller ClusterRoleBinding/goldleaf-csi-controller DaemonSet/goldleaf-agent DaemonSet/goldleaf-csi-node Deployment/goldleaf-csi-controller Deployment/goldleaf-server Role/goldleaf-csi-controller RoleBinding/goldleaf-csi-controller ServiceAccount/goldleaf-csi-controller ServiceAccount/goldleaf-plain StorageClass/goldleaf StorageClass/goldleaf-immediate VolumeSnapshotClass/goldleaf" | sort)" \
    "$(kinds <<<"$everything")"
  # Without snapshots nothing of it, and no rights for it.
  everything=$(render --set snapshots.enabled=false)
  equal "mentions of snapshots without them" 0 "$(grep -ci snapshot <<<"$everything" || true)"
}

# attaching ...: what the chart says of it.
attaching() { render "$@" | matching -E '^ +attachRequired|name: attacher$|volumeattachments' | sed 's/^ *//' | sort; }
the_chart_has_an_attacher_when_it_is_asked_for() {
  local sees='resources: [storageclasses, csinodes, volumeattributesclasses, volumeattachments]'
  says "without" "$(printf '%s\n' 'attachRequired: false' "$sees" | sort)" attaching
  says "with" "$(printf '%s\n' 'attachRequired: true' "$sees" 'resources: [volumeattachments/status]' '- name: attacher' | sort)" \
    attaching --set csi.attacher.enabled=true
}

# grouping ...: what the chart says of groups of snapshots.
grouping() { render "$@" | matching -iE 'group-?snapshot' | sed 's/^ *//' | sort -u; }
the_chart_makes_groups_of_snapshots_when_it_is_asked_for() {
  says "without" "" grouping
  says "with" "$(printf '%s\n' '- --feature-gates=CSIVolumeGroupSnapshot=true' '- apiGroups: [groupsnapshot.storage.k8s.io]' \
    'resources: [volumegroupsnapshotclasses]' 'resources: [volumegroupsnapshotcontents]' 'resources: [volumegroupsnapshotcontents/status]' | sort -u)" \
    grouping --set snapshots.groups=true
  says "without any snapshots" "" grouping --set snapshots.enabled=false,snapshots.groups=true
}

the_chart_refuses_wrong_values() {
  refused "node" helm template goldleaf "$chart"
  local wrong
  for wrong in nod=x server.port=0 server.stateDir=relative agent.imageBudget=lots log.level= cdi.storageProfiles=true \
    'storageClasses[0].volumeBindingMode=Later,storageClasses[0].name=x' csi.sidecars.resizer.tag=v1 \
    podSecurity.seccompProfile=none csi.node.maxVolumes=-1 csi.attacher.enabled=maybe; do
    refused "values don't meet the specifications" render --set "$wrong"
  done
}

the_chart_says_what_a_class_says() {
  local classes
  classes=$(render --show-only templates/classes.yaml --set-json 'storageClasses=[{"name":"vm","image":"debian-12","pool":"fast","poolLabels":{"tier":"nvme","a":"b"},"fsType":"xfs","volumeBindingMode":"Immediate","isDefault":true}]')
  local line
  for line in '  csi.storage.k8s.io/fstype: xfs' '  image: "debian-12"' '  pool: "fast"' '  poolLabels: "a=b,tier=nvme"' \
    'volumeBindingMode: Immediate' '  annotations: {storageclass.kubernetes.io/is-default-class: "true"}'; do
    grep -qxF -- "$line" <<<"$classes" || { echo "not there: $line"; echo "$classes"; return 1; }
  done
}

# A kind of file system that nobody asked for would refuse what an image or a clone holds.
the_chart_asks_for_no_file_system_by_itself() {
  local everything
  everything=$(render --set-json 'storageClasses=[{"name":"vm","image":"debian-12","volumeBindingMode":"Immediate"},{"name":"blank","volumeBindingMode":"Immediate"}]')
  equal "file systems" "" "$(matching -iE 'fstype|ext4|xfs' <<<"$(grep -v '^ *#' <<<"$everything" | grep -v fsGroupPolicy)")"
  # A blank class has no parameters at all.
  equal "parameters" 1 "$(grep -c '^parameters:' <<<"$everything")"
}

for name in the_chart_is_sound the_chart_makes_these_objects the_chart_has_an_attacher_when_it_is_asked_for \
  the_chart_makes_groups_of_snapshots_when_it_is_asked_for the_chart_refuses_wrong_values the_chart_says_what_a_class_says the_chart_asks_for_no_file_system_by_itself; do
  case_of chart $name
done
