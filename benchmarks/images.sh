#!/bin/sh
# What stands in docs/results/images.jsonl at 224 x 224, measured again:
#
#   sh benchmarks/images.sh ../shared FILE.jsonl [plain] [labelled] [together] [few] [zero] [peers]
#
# All parts when none is named. The part `peers` needs the extra `bench`; PYTHON names the interpreter.
set -eu
shared=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- plain labelled together few zero peers
splits=$shared/data/splits
every=$splits/kolektorsdd.csv,$splits/mvtec_screw.csv,$splits/magnetic_tile.csv
one=$splits/kolektorsdd.csv
failed=0

# $1: detectors, with commas; $2: splits; then more arguments. Goes on after a failure, and ends with it.
measure() {
    detectors=$1 split=$2
    shift 2
    "${PYTHON:-python}" -m benchmarks.images --data "$shared/data" --split "$split" --detectors "$detectors" \
        --backbone "${BACKBONE:-mobilenetv2_100}" --weights "$shared/weights/${BACKBONE:-mobilenetv2_100}.safetensors" \
        --size 224x224 --fit stretch --out "$out" "$@" || failed=1 # a later --size counts
}

for part in "$@"; do
    case $part in
    plain) # every set, and on one of them what each idea is worth
        for name in dinomaly inpformer onenip fader draem destseg musc resad uniconha \
            reverse_distillation fastflow cflow stfpm; do
            measure $name "$one" --ablate
            measure $name "$splits/mvtec_screw.csv,$splits/magnetic_tile.csv"
        done
        measure anomalyncd "$every" ;;
    labelled)
        measure realnet_classifier "$one" --labelled 0.5 --ablate
        measure realnet_classifier "$splits/mvtec_screw.csv,$splits/magnetic_tile.csv" --labelled 0.5
        measure draem,destseg "$every" --labelled 0.1 ;;
    together)
        measure dinomaly,inpformer,onenip,fader,uniconha,patchcore,padim "$every" --together --quick ;;
    few)
        for shots in 1 2 4; do
            measure inpformer,patchcore "$every" --shots $shots --draws 3 --quick
            measure resad "$every" --shots $shots --draws 3 --unseen --quick
        done ;;
    zero)
        measure musc "$every" --whole --quick
        measure inpformer "$every" --unseen --quick ;;
    peers) # fewer steps of both where anomalib's networks are far larger than two cores can train
        measure stfpm,fastflow,cflow "$every" --peer anomalib
        measure dinomaly,inpformer "$one" --peer anomalib
        measure reverse_distillation,destseg "$one" --peer anomalib # anomalib has none for this backbone, and says so
        BACKBONE=resnet18
        measure reverse_distillation "$one" --peer anomalib --options '{reverse_distillation: {steps: 100, batch: 8}}'
        BACKBONE=mobilenetv2_100
        measure draem "$one" --peer anomalib --size 128x128 --options '{draem: {steps: 20}}' ;;
    *)
        echo "unknown part $part" >&2
        exit 2 ;;
    esac
done
exit $failed
