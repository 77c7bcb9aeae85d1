#!/bin/sh
# What stands in docs/results/images.jsonl of most detectors, or of DETECTORS (names with spaces), measured again at
# 224 x 224:
#
#   sh benchmarks/images.sh ../shared FILE.jsonl [speeds] [peers] [sets] [ablations] [labelled] [together] [few] [zero]
#
# All parts when none is named; the first two need an idle machine. `peers` needs the extra `bench`; PYTHON names the
# interpreter. Goes on after a failure, and ends with it.
set -eu
shared=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- speeds peers sets ablations labelled together few zero
detectors=${DETECTORS:-"dinomaly inpformer onenip fader draem destseg musc resad uniconha reverse_distillation \
fastflow cflow stfpm anomalyncd"}
splits=$shared/data/splits
one=$splits/kolektorsdd.csv
others=$splits/mvtec_screw.csv,$splits/magnetic_tile.csv
every=$one,$others
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
    peers) # fewer steps of both where anomalib's networks are far larger than two cores can train
        measure stfpm,fastflow,cflow "$every" --peer anomalib
        measure dinomaly,inpformer "$one" --peer anomalib
        measure reverse_distillation,destseg "$one" --peer anomalib # anomalib has none for this backbone, and says so
        backbone=resnet18
        measure reverse_distillation "$one" --peer anomalib --options '{reverse_distillation: {steps: 100, batch: 8}}'
        backbone=mobilenetv2_100
        measure draem "$one" --peer anomalib --size 128x128 --options '{draem: {steps: 20}}' ;;
    sets)
        for name in $detectors; do measure "$name" "$others" --quick; done ;;
    ablations)
        for name in $detectors; do measure "$name" "$one" --ablate --quick; done ;;
    labelled)
        measure realnet_classifier "$one" --labelled 0.5 --ablate
        measure realnet_classifier "$others" --labelled 0.5
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
