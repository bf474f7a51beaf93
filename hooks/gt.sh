#!/bin/sh
# gastown-finetune shim: stands as `gt` first on PATH. model, corpus, prime and sling go to Python, all
# else is exec'ed to the real gt as it is. It forks nothing on the way, so it costs a millisecond or so.
#
# ../shim.state holds three lines: the real gt, our Python, our package. A real gt that has gone (an
# upgrade) is looked for on PATH and written down again. It cannot call itself: a file with the first
# comment line above is never taken for the real gt, and GT_FINETUNE_SHIM (process id and depth) shows
# when the "real" gt came straight back here, or does so again and again; then it runs without us on PATH.

magic='gastown-finetune shim'
most_depth=40

case $0 in */*) here=${0%/*} ;; *) here=. ;; esac
state=$here/../shim.state
[ -r "$state" ] || state=${XDG_DATA_HOME:-${HOME:-}/.local/share}/gastown-finetune/shim.state
real='' python='' package=''
[ -r "$state" ] && { IFS= read -r real; IFS= read -r python; IFS= read -r package; } <"$state"

# The first gt on PATH that is no shim, in $found.
find_real() {
    rest=$PATH:
    while [ -n "$rest" ]; do
        found=${rest%%:*} rest=${rest#*:}
        found=${found:-.}/gt
        if [ ! -f "$found" ] || [ ! -x "$found" ]; then continue; fi
        case $(head -c 200 "$found" 2>/dev/null | tr -d '\000') in *"$magic"*) continue ;; esac
        return 0
    done
    return 1
}

# PATH without this shim's folder, in $PATH.
leave_path() {
    rest=$PATH: clean=''
    while [ -n "$rest" ]; do
        folder=${rest%%:*} rest=${rest#*:}
        [ "$folder" = "$here" ] || clean=${clean:+$clean:}$folder
    done
    PATH=$clean
    export PATH
}

# Give the real gt, for the agents it starts, what a tuned session's wrapper put aside of the environment.
give_back() {
    for name in ANTHROPIC_AUTH_TOKEN CLAUDE_CODE_USE_BEDROCK CLAUDE_CODE_USE_VERTEX CLAUDE_CODE_USE_FOUNDRY; do
        eval "held=\${GT_FT_HELD_$name:-}"
        # shellcheck disable=SC2154  # eval sets it
        if [ -n "$held" ]; then
            eval "$name=\$held"
            export "${name?}"
            unset "GT_FT_HELD_$name"
        fi
    done
}

# Replace this process by the real gt.
pass() {
    if [ -n "$looping" ] || ! { [ -f "$real" ] && [ -x "$real" ]; }; then
        [ -z "$looping" ] || leave_path
        if ! find_real; then
            echo "gt: the real gt is not on PATH (this is gastown-finetune's shim $0)" >&2
            exit 127
        fi
        real=$found
        case $looping$real in
        /*)
            { printf '%s\n' "$real" "$python" "$package" >"$state.$$" && mv -f "$state.$$" "$state"; } 2>/dev/null ||
                rm -f "$state.$$"
            ;;
        esac
    fi
    give_back
    exec "$real" "$@"
}

# Whether the session's role has a tuned model in its town, told without starting Python. A session in which
# the stock agent stands in for a tuned one (GT_FINETUNE_STOCK) wants the stock prime.
deployed() {
    [ -z "${GT_FINETUNE_STOCK:-}" ] || return 1
    dir=$PWD top=''
    while case $dir in /*) true ;; *) false ;; esac do
        [ -f "$dir/mayor/town.json" ] && top=$dir
        dir=${dir%/*}
    done
    who=${GT_ROLE:-${PWD#"$top"/}}
    first=${who%%/*} rest=${who#*/}
    [ "$rest" != "$who" ] || rest=''
    case $first in
    deacon)
        case $rest in
        boot | boot/* | dogs/boot | dogs/boot/*) role=boot ;;
        dogs/*) role=dog ;;
        *) role=deacon ;;
        esac
        ;;
    mayor | boot | dog | witness | refinery | polecat | crew) role=$first ;;
    *)
        case ${rest%%/*} in
        polecat | polecats) role=polecat ;;
        witness | refinery | crew) role=${rest%%/*} ;;
        *) return 1 ;;
        esac
        ;;
    esac
    for town in "$top" "${GT_TOWN_ROOT:-}" "${GT_ROOT:-}"; do
        [ -n "$town" ] && [ -e "$town/.finetune/$role/role.json" ] && return 0
    done
    return 1
}

# Hand over to our Python; without it (an environment that was removed) return.
ours() {
    if [ -x "$python" ] && [ -f "$package/cli/gt.py" ]; then
        exec "$python" -E -P -m gt_plugins.cli.gt "$@"
    fi
}

mark=${GT_FINETUNE_SHIM:-0.0}
depth=${mark#*.}
case $depth in '' | *[!0-9]* | 0?* | ?????*) depth=0 ;; esac
depth=$((depth + 1)) looping=''
if [ "${mark%%.*}" = "$$" ] || [ "$depth" -gt "$most_depth" ]; then
    looping=yes depth=0
fi
GT_FINETUNE_SHIM=$$.$depth
export GT_FINETUNE_SHIM

case ${1:-} in
model | corpus)
    tool=${python%/*}/gt-$1
    if [ -x "$tool" ]; then
        shift
        exec "$tool" "$@"
    fi
    echo "gt $1: gastown-finetune is no longer in ${python:-its environment}; install it and run gt-plugins doctor --fix" >&2
    exit 127
    ;;
sling)
    [ -n "$looping" ] || ours "$@"
    ;;
prime)
    full=''
    for argument; do
        [ "$argument" != --full ] || full=yes
    done
    if [ -n "$full" ]; then
        for argument; do
            shift
            [ "$argument" = --full ] || set -- "$@" "$argument"
        done
    elif [ -z "$looping" ] && deployed; then
        ours "$@"
    fi
    ;;
esac
pass "$@"
