# Goldleaf in the cluster, from the chart to nothing left. The cases build on each other, in this order.

chart=$repo/charts/goldleaf
golden_sum() { sha256sum <"$images/golden.raw" | cut -d ' ' -f 1; }

# sum_of POD FILE MEBIBYTES: of its beginning.
sum_of() { in_pod "$1" sh -c "dd if=$2 bs=1M count=$3 2>/dev/null | sha256sum" | cut -d ' ' -f 1; }
size_of() { in_pod "$1" blockdev --getsize64 /dev/disk; }
# at_100 POD [TEXT]: the line in the device's block 100; writes it when a text is given.
at_100() {
  if [ $# -gt 1 ]; then
    in_pod "$1" sh -c "echo $2 | dd of=/dev/disk bs=4k seek=100 conv=sync,fsync,notrunc 2>/dev/null"
  else
    in_pod "$1" sh -c 'dd if=/dev/disk bs=4k skip=100 count=1 2>/dev/null | head -n 1'
  fi
}
# room_in POD: KiB of its file system.
room_in() { in_pod "$1" df -k /files | awk 'END { print $2 }'; }
running() { kubectl wait --for=condition=Ready "pod/$1" --timeout=180s; }

# spent METHOD: seconds that the provisioner has waited for a call of the driver, as its log says.
spent() {
  kubectl logs -n goldleaf deploy/goldleaf-csi-controller -c provisioner | awk -v method="/csi.v1.Controller/$1" '
    function at(stamp,  t) { split(stamp, t, ":"); return t[1] * 3600 + t[2] * 60 + t[3] }
    /GRPC call/ && index($0, method) { began = at($2); waits = 1; next }
    /GRPC response/ && waits { sum += at($2) - began; waits = 0 }
    END { printf "%.3f", sum }'
}

# in_provisioner CLAIM: seconds from when the provisioner took it up to when its volume was there.
in_provisioner() {
  kubectl logs -n goldleaf deploy/goldleaf-csi-controller -c provisioner | awk -v claim="PVC=\"default/$1\"" '
    function at(stamp,  t) { split(stamp, t, ":"); return t[1] * 3600 + t[2] * 60 + t[3] }
    index($0, claim) && /"Started"/ { began = at($2) }
    index($0, claim) && /"Succeeded"/ { printf "%.3f", at($2) - began; exit }'
}

# on_kubelet METHOD: seconds that kubelet has waited for a call of the driver.
on_kubelet() {
  kubectl get --raw "/api/v1/nodes/$node/proxy/metrics" | awk -v method="/csi.v1.Node/$1" '
    /^csi_operations_seconds_sum/ && /driver_name="csi.goldleaf.dev"/ && index($0, method) { sum += $2 }
    END { printf "%.3f", sum }'
}

the_api_server_takes_every_object_of_the_chart() {
  kubectl create namespace goldleaf
  helm template goldleaf "$chart" --namespace goldleaf --values "$here/values.yaml" |
    kubectl apply --dry-run=server --validate=strict -f -
}

csi_node() {
  kubectl get csinode "$node" -o json |
    jq -e '.spec.drivers[]? | select(.name == "csi.goldleaf.dev" and .topologyKeys == ["goldleaf.dev/node"])'
}
the_chart_comes_up_and_the_driver_registers_itself() {
  local more=()
  on_node 'test -s /etc/machine-id' || more=(--set agent.hostId=node-1)
  kubectl rollout status -n kube-system deploy/snapshot-controller --timeout=180s
  helm upgrade --install goldleaf "$chart" --namespace goldleaf --values "$here/values.yaml" "${more[@]}" \
    --wait --timeout 5m || { kubectl get pods -A; kubectl get events -n goldleaf; return 1; }
  eventually 60 csi_node
  goldleaf node preflight
  equal "nodes" "$node" "$(goldleaf node list -o name)"
}

# may_not ACCOUNT WHAT...: the answer is no; kubectl then fails, as it does when it has no answer.
may_not() {
  local account=$1 answer
  shift
  answer=$(kubectl auth can-i "$@" --all-namespaces --as="$account" || true)
  equal "whether $account can $*" no "${answer%% *}"
}
nothing_has_more_rights_than_it_needs() {
  local account=system:serviceaccount:goldleaf:goldleaf question
  # shellcheck disable=SC2086 # two words each
  for question in 'get secrets' 'list pods' 'create pods' 'delete nodes' 'patch nodes' 'create clusterroles' \
    'get configmaps' 'create pods/exec' 'update storageclasses' 'impersonate users'; do
    may_not "$account-csi-controller" $question
  done
  # shellcheck disable=SC2086
  for question in 'list persistentvolumes' 'get nodes' 'get secrets' 'create pods'; do
    may_not "$account-plain" $question
  done
  kubectl auth can-i create persistentvolumes --as="$account-csi-controller"
  # Only what makes devices and mounts is privileged, and nothing has a token that does not use it.
  local pods
  pods=$(kubectl get pods -n goldleaf -o json)
  says "privileged" "agent csi-node" \
    jq -r '[.items[].spec.containers[] | select(.securityContext.privileged) | .name] | sort | join(" ")' <<<"$pods"
  says "roots that can be written" "" \
    jq -r '[.items[].spec.containers[] | select(.securityContext.readOnlyRootFilesystem | not) | .name] | join(" ")' <<<"$pods"
  says "pods with a token" "csi-controller" \
    jq -r '[.items[].spec | select(any(.volumes[]; .projected)) | .containers[0].name] | join(" ")' <<<"$pods"
}

room() { kubectl get csistoragecapacities -n goldleaf -o json | jq -e '.items | length == 3 and all(.capacity != "0")'; }
a_pool_and_an_image_are_made_from_the_servers_pod() {
  goldleaf pool create fast --device /dev/ubdb
  goldleaf image create golden --file /var/lib/goldleaf/import/golden.raw
  eventually 60 room
}

a_pod_reads_its_image_through_a_block_device() {
  local began created staged published bound
  created=$(spent CreateVolume) staged=$(on_kubelet NodeStageVolume) published=$(on_kubelet NodePublishVolume)
  began=$EPOCHREALTIME
  {
    filled claim name=disk mode=Block class=golden size=128Mi source=null
    echo ---
    filled pod-block name=reader claim=disk
  } | kubectl apply -f -
  until_status pvc/disk '{.status.phase}=Bound'
  bound=$(seconds_since "$began")
  running reader
  {
    printf 'times: a pod over an image: from apply to Bound %s s, to Running %s s\n' "$bound" "$(seconds_since "$began")"
    awk -v a="$created" -v b="$(spent CreateVolume)" -v c="$staged" -v d="$(on_kubelet NodeStageVolume)" \
      -v e="$published" -v f="$(on_kubelet NodePublishVolume)" -v p="$(in_provisioner disk)" 'BEGIN {
      printf "times: of that the driver took: CreateVolume %.3f s, NodeStageVolume %.3f s, NodePublishVolume %.3f s\n", b - a, d - c, f - e
      printf "times: and csi-provisioner by itself %.3f s; the rest is Kubernetes\n", p - (b - a) }'
  } >>"$run/times"
  equal "size" $((128 << 20)) "$(size_of reader)"
  equal "the image's bytes" "$(golden_sum)" "$(sum_of reader /dev/disk 64)"
  # What lies past the image was written by nobody.
  equal "bytes past it" 0 "$(in_pod reader sh -c 'dd if=/dev/disk bs=1M skip=64 2>/dev/null | tr -d "\000" | wc -c')"
  # A volume of this host has not to be attached to it: there is nothing for an attacher to do.
  says "attachments" "" kubectl get volumeattachments -o name
  at_100 reader before
}

another_pod_has_the_same_image_as_files() {
  apply claim name=files mode=Filesystem class=golden size=128Mi source=null
  apply pod-files name=writer claim=files
  running writer
  equal "the file" "as it was made" "$(in_pod writer cat /files/hello)"
  # The file system fills its volume, not only what the image had.
  [ "$(room_in writer)" -gt 100000 ]
  equal "who it is" 1000 "$(in_pod writer id -u)"
  in_pod writer sh -c 'echo mine >/files/own && sync'
}

a_snapshot_is_restored_to_a_larger_volume() {
  apply snapshot name=early claim=disk
  until_status volumesnapshot/early '{.status.readyToUse}=true'
  equal "its size" 128Mi "$(kubectl get volumesnapshot early -o jsonpath='{.status.restoreSize}')"
  at_100 reader after
  apply claim name=restored mode=Block class=goldleaf size=192Mi \
    source='{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: early}'
  apply pod-block name=rereader claim=restored
  running rereader
  equal "size" $((192 << 20)) "$(size_of rereader)"
  equal "what was written before" before "$(at_100 rereader)"
  equal "what was written after" after "$(at_100 reader)"
}

a_volume_is_cloned() {
  apply claim name=clone mode=Block class=goldleaf-immediate size=128Mi source='{kind: PersistentVolumeClaim, name: disk}'
  # Immediate: it is there before a pod is.
  until_status pvc/clone '{.status.phase}=Bound'
  apply pod-block name=twin claim=clone
  running twin
  equal "what the source has" after "$(at_100 twin)"
  at_100 twin other
  equal "the source's own" after "$(at_100 reader)"
}

an_image_is_a_snapshot_that_is_there_already() {
  apply image-snapshot handle="$(goldleaf image get golden -o json | jq -r .id)"
  until_status volumesnapshot/golden '{.status.readyToUse}=true'
  equal "its size" 64Mi "$(kubectl get volumesnapshot golden -o jsonpath='{.status.restoreSize}')"
  apply claim name=begun mode=Block class=goldleaf size=64Mi \
    source='{apiGroup: snapshot.storage.k8s.io, kind: VolumeSnapshot, name: golden}'
  apply pod-block name=beginner claim=begun
  running beginner
  equal "the image's bytes" "$(golden_sum)" "$(sum_of beginner /dev/disk 64)"
  kubectl delete pod/beginner pvc/begun volumesnapshot/golden
  kubectl delete volumesnapshotcontent golden
  # The image is not the snapshot's: it stays.
  goldleaf image get golden
}

volumes_grow_while_they_are_used() {
  local claim
  for claim in files disk; do
    kubectl patch pvc $claim --patch '{"spec": {"resources": {"requests": {"storage": "256Mi"}}}}'
  done
  until_status pvc/files '{.status.capacity.storage}=256Mi'
  until_status pvc/disk '{.status.capacity.storage}=256Mi'
  equal "the device" $((256 << 20)) "$(size_of reader)"
  [ "$(room_in writer)" -gt 220000 ]
  equal "the file" mine "$(in_pod writer cat /files/own)"
}

# grown CLAIM MEBIBYTES: whether its volume is, as the control plane says.
grown() {
  local handle
  handle=$(kubectl get pv "$(kubectl get pvc "$1" -o jsonpath='{.spec.volumeName}')" -o jsonpath='{.spec.csi.volumeHandle}')
  goldleaf volume get "$handle" -o json | jq -e --arg size $(($2 << 20)) 'any(.. | strings, numbers; tostring == $size)'
}
a_volume_grows_while_nobody_uses_it() {
  kubectl delete pod writer
  kubectl patch pvc files --patch '{"spec": {"resources": {"requests": {"storage": "320Mi"}}}}'
  eventually 60 grown files 320
  apply pod-files name=writer claim=files
  running writer
  until_status pvc/files '{.status.capacity.storage}=320Mi'
  [ "$(room_in writer)" -gt 280000 ]
  equal "the file" mine "$(in_pod writer cat /files/own)"
}

# keep_busy POD: from now on it reads a place of its device, past the kernel's cache, and writes another.
# Its /tmp/turns has how often both went well, /tmp/failures what did not, /tmp/longest the seconds of the
# longest turn.
keep_busy() {
  in_pod "$1" sh -c '
    turns=0 longest=0
    echo 0 >/tmp/turns
    echo 0 >/tmp/longest
    : >/tmp/failures
    while sleep 0.1; do
      read began rest </proc/uptime
      if dd if=/dev/disk of=/dev/null iflag=direct bs=4k count=1 skip=$((RANDOM % 10000)) &&
        echo "turn $turns" | dd of=/dev/disk bs=4k seek=200 conv=sync,fsync,notrunc; then
        turns=$((turns + 1))
        echo $turns >/tmp/turns.new
        mv /tmp/turns.new /tmp/turns
      else
        echo "after $turns turns" >>/tmp/failures
      fi
      read ended rest </proc/uptime
      took=$((${ended%.*} - ${began%.*}))
      [ $took -le $longest ] || { longest=$took; echo $took >/tmp/longest; }
    done </dev/null >/tmp/said 2>&1 &'
}
turns() { in_pod "$1" cat /tmp/turns; }
# went_on POD TURNS: whether it has had more since.
went_on() {
  local now
  now=$(turns "$1") && [ "$now" -gt "$2" ]
}

workloads_go_on_while_all_of_goldleaf_is_replaced() {
  local part before gone back longest
  sidecars_say before
  keep_busy reader
  eventually 30 went_on reader 0
  before=$(turns reader)
  kubectl delete pods -n goldleaf --all --wait
  gone=$(turns reader)
  for part in deploy/goldleaf-server daemonset/goldleaf-agent daemonset/goldleaf-csi-node deploy/goldleaf-csi-controller; do
    kubectl rollout status -n goldleaf $part --timeout=180s
  done
  back=$(turns reader)
  echo "turns: $before before, $gone when the former pods were gone, $back when the new ones worked"
  [ "$gone" -gt "$before" ]
  [ "$back" -gt "$gone" ]
  # And with the new ones: none of its turns hangs.
  eventually 30 went_on reader "$((back + 10))"
  says "failed turns" "" in_pod reader cat /tmp/failures
  longest=$(in_pod reader cat /tmp/longest)
  echo "the longest turn took $longest s"
  [ "$longest" -le 10 ]
  equal "what was written" after "$(at_100 reader)"
  in_pod writer sh -c 'echo still >/files/later && sync && cat /files/later'
  # Whatever the former ones made is taken up by the new ones.
  eventually 60 goldleaf node preflight
  apply claim name=late mode=Block class=golden size=64Mi source=null
  apply pod-block name=latecomer claim=late
  running latecomer
  equal "the image's bytes" "$(golden_sum)" "$(sum_of latecomer /dev/disk 64)"
  goldleaf doctor
}

said_why() {
  kubectl get events --field-selector "involvedObject.name=$1,reason=ProvisioningFailed" -o json |
    jq -e '.items[].message | select(test("OutOfRange"))'
}
volumes() { goldleaf volume list -o name | sort; }
a_claim_that_cannot_be_served_says_why_and_takes_nothing() {
  local before
  before=$(volumes)
  apply claim name=wrong mode=Block class=golden size=32Mi source=null
  apply pod-block name=waiter claim=wrong
  eventually 60 said_why wrong
  kubectl delete pod/waiter pvc/wrong
  says "volumes" "$before" volumes
}

# attachment CLAIM: what its volume's VolumeAttachment says: whose, where, and whether it is attached.
attachment() {
  local volume
  volume=$(kubectl get pvc "$1" -o jsonpath='{.spec.volumeName}') && [ -n "$volume" ] || return
  kubectl get volumeattachments -o json | jq -r --arg volume "$volume" '.items[] |
    select(.spec.source.persistentVolumeName == $volume) | "\(.spec.attacher) \(.spec.nodeName) \(.status.attached)"'
}
is_attached() { equal "the VolumeAttachment" "csi.goldleaf.dev $node true" "$(attachment "$1")"; }
an_attacher_that_is_asked_for_answers_the_attachments_of_pods_volumes() {
  local account=system:serviceaccount:goldleaf:goldleaf-csi-controller began verb
  may_not $account patch volumeattachments --subresource=status
  sidecars_say without-attacher
  refused "field is immutable" kubectl patch csidriver csi.goldleaf.dev --patch '{"spec": {"attachRequired": true}}'
  kubectl delete csidriver csi.goldleaf.dev
  helm upgrade goldleaf "$chart" --namespace goldleaf --reuse-values --set csi.attacher.enabled=true --wait --timeout 5m
  kubectl auth can-i patch volumeattachments --subresource=status --as=$account
  for verb in create update patch delete; do may_not $account $verb volumeattachments; done
  may_not $account update volumeattachments --subresource=status
  began=$EPOCHREALTIME
  apply claim name=seen mode=Block class=golden size=64Mi source=null
  apply pod-block name=attached claim=seen
  running attached
  printf 'times: a pod over an image, its volume attached by csi-attacher: from apply to Running %s s\n' \
    "$(seconds_since "$began")" >>"$run/times"
  is_attached seen
  equal "the image's bytes" "$(golden_sum)" "$(sum_of attached /dev/disk 64)"
  kubectl delete pod attached --wait
  eventually 60 silent attachment seen
  equal "the claim" Bound "$(kubectl get pvc seen -o jsonpath='{.status.phase}')"
  # A pod that was there before goes on as it is, and has an attachment when it is made anew.
  equal "what was written" after "$(at_100 reader)"
  kubectl delete pod reader --wait
  apply pod-block name=reader claim=disk
  running reader
  is_attached disk
  equal "what was written" after "$(at_100 reader)"
}

objects() { kubectl get pv,pvc,volumesnapshots,volumesnapshotcontents,volumeattachments -A -o name; }
devices_of_volumes() { on_node 'dmsetup info -c --noheadings -o uuid' | matching GOLDLEAF-vol; }
folders_of_volumes() { on_node 'find /var/lib/kubelet/plugins /var/lib/kubelet/pods -ignore_readdir_race -name "*pvc-*"'; }
pool_is_empty() { goldleaf pool get fast -o json | jq -e '.usage | (.data_used_bytes // "0") == "0" and .mode == "POOL_MODE_READ_WRITE"'; }
deleting_leaves_nothing_in_the_cluster_or_the_control_plane() {
  local what found
  # What is looked for afterwards is found as long as it is there.
  for what in objects devices_of_volumes folders_of_volumes; do
    found=$($what)
    [ -n "$found" ] || { echo "no $what before anything is deleted"; return 1; }
  done
  kubectl delete pods --all --wait --timeout=120s
  kubectl delete volumesnapshots --all --wait --timeout=120s
  kubectl delete pvc --all --wait --timeout=120s
  eventually 120 silent objects
  says "volumes" "" goldleaf volume list -o name
  says "snapshots" "" goldleaf snapshot list -o name
  eventually 60 pool_is_empty
  goldleaf doctor
  says "volumes' devices" "" devices_of_volumes
  says "kubelet's folders" "" folders_of_volumes
}

# sidecars_say WHEN: keeps what they logged until now.
sidecars_say() {
  local container
  for container in $(kubectl get -n goldleaf deploy/goldleaf-csi-controller -o json |
    jq -r '.spec.template.spec.containers[].name | select(. != "csi-controller")'); do
    kubectl logs -n goldleaf deploy/goldleaf-csi-controller -c $container >"$run/log/$container-$1.log"
  done
  kubectl logs -n kube-system deploy/snapshot-controller >"$run/log/snapshot-controller-$1.log"
}
the_sidecars_were_refused_nothing() {
  sidecars_say after
  local logs=("$run"/log/{provisioner,resizer,snapshotter,snapshot-controller}-{before,without-attacher,after}.log
    "$run/log/attacher-after.log") log found
  for log in "${logs[@]}"; do
    [ -s "$log" ] || { echo "nothing was kept in $log"; return 1; }
  done
  found=$(matching -ihE 'forbidden|cannot (get|list|watch|create|update|patch|delete) resource' "${logs[@]}")
  equal "what they were refused" "" "$(head -n 5 <<<"$found")"
}

drivers() { kubectl get csinode "$node" -o jsonpath='{.spec.drivers[*].name}'; }
objects_of_the_chart() {
  kubectl get csidrivers,storageclasses,volumesnapshotclasses,clusterroles,clusterrolebindings -o name | matching goldleaf
}
taking_goldleaf_away_leaves_nothing_in_the_kernel() {
  local found
  # As above: both are found as long as they are there.
  says "drivers" csi.goldleaf.dev drivers
  found=$(objects_of_the_chart)
  [ -n "$found" ]
  goldleaf image delete golden
  goldleaf pool delete fast
  helm uninstall goldleaf --namespace goldleaf --wait --timeout 3m
  eventually 60 silent kubectl get pods -n goldleaf -o name
  says "dm devices" "No devices found" on_node 'dmsetup ls'
  says "loop devices" "" on_node 'losetup --all'
  says "mounts" "" on_node 'awk "tolower(\$0) ~ /goldleaf|kubelet\/.*csi/ { print \$2 }" /proc/mounts'
  says "sockets" "" on_node 'find /run/goldleaf /var/lib/kubelet/plugins* -type s'
  says "links and copies" "" on_node 'find /dev/goldleaf /var/lib/goldleaf/images /var/lib/goldleaf/export -not -type d'
  eventually 60 silent drivers
  says "objects" "" objects_of_the_chart
  says "room" "" kubectl get csistoragecapacities -A -o name
}

for name in \
  the_api_server_takes_every_object_of_the_chart \
  the_chart_comes_up_and_the_driver_registers_itself \
  nothing_has_more_rights_than_it_needs \
  a_pool_and_an_image_are_made_from_the_servers_pod \
  a_pod_reads_its_image_through_a_block_device \
  another_pod_has_the_same_image_as_files \
  a_snapshot_is_restored_to_a_larger_volume \
  a_volume_is_cloned \
  an_image_is_a_snapshot_that_is_there_already \
  volumes_grow_while_they_are_used \
  a_volume_grows_while_nobody_uses_it \
  workloads_go_on_while_all_of_goldleaf_is_replaced \
  a_claim_that_cannot_be_served_says_why_and_takes_nothing \
  an_attacher_that_is_asked_for_answers_the_attachments_of_pods_volumes \
  deleting_leaves_nothing_in_the_cluster_or_the_control_plane \
  the_sidecars_were_refused_nothing \
  taking_goldleaf_away_leaves_nothing_in_the_kernel; do
  case_of cluster $name
done
