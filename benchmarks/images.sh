#!/bin/sh
# What stands in docs/results/images.jsonl of the detectors named below, measured again at 224 x 224:
#
#   sh benchmarks/images.sh ../shared FILE.jsonl [speeds] [peers] [sets] [ablations] [labelled] [together] [few] [zero]
#
# All parts when none is named; the first two need an idle machine. `peers` measures those that anomalib has, too, and
# needs the extra `bench`; PYTHON names the interpreter. SETS (kolektorsdd mvtec_screw magnetic_tile) and DETECTORS, names
# with spaces, leave some out. Goes on after a failure, and ends with it.
set -eu
shared=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- speeds peers sets ablations labelled together few zero
detectors=${DETECTORS:-onenip fader destseg musc resad uniconha anomalyncd reverse_distillation}
rivals=${DETECTORS:-stfpm fastflow cflow dinomaly inpformer draem}
every=
for name in ${SETS:-kolektorsdd mvtec_screw magnetic_tile}; do
    every=${every:+$every,}$shared/data/splits/$name.csv
done
one=${every%%,*}
backbone=mobilenetv2_100
failed=0

# $1: detectors, with commas; $2: splits; then more arguments, of which a later --size counts.
measure() {
    names=$1 split=$2
    shift 2
    "${PYTHON:-python}" -m benchmarks.images --data "$shared/data" --split "$split" --detectors "$names" \
        --backbone $backbone --weights "$shared/weights/$backbone.safetensors" --size 224x224 --fit stretch \
        --out "$out" "$@" || failed=1
}

for part in "$@"; do
    case $part in
    speeds)
        for name in $detectors; do measure "$name" "$one"; done ;;
    peers)
        for name in $rivals; do measure "$name" "$every" --peer anomalib; done
        [ -z "${DETECTORS:-}" ] || continue
        backbone=resnet18
        measure reverse_distillation "$every" --peer anomalib # anomalib has it for no other backbone at hand
        backbone=mobilenetv2_100 ;;
    sets)
        [ "$one" = "$every" ] && continue
        for name in $detectors; do measure "$name" "${every#*,}" --quick; done ;;
    ablations)
        for name in ${DETECTORS:-$rivals $detectors}; do measure "$name" "$one" --ablate --quick; done ;;
    labelled)
        measure realnet_classifier "$one" --labelled 0.5 --ablate
        [ "$one" = "$every" ] || measure realnet_classifier "${every#*,}" --labelled 0.5 --quick
        measure draem,destseg,onenip "$every" --labelled 0.1 --quick ;;
    together)
        measure dinomaly,inpformer,onenip,resad,uniconha,patchcore,padim "$every" --together --quick ;;
    few)
        for shots in 1 2 4; do
            measure patchcore,inpformer "$every" --shots $shots --draws 2 --quick
            measure resad "$every" --shots $shots --unseen --quick
        done ;;
    zero)
        measure musc "$every" --whole --quick
        measure inpformer "$every" --unseen --quick ;;
    *)
        echo "unknown part $part" >&2
        exit 2 ;;
    esac
done
exit $failed
