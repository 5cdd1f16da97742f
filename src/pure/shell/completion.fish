
function __fish_lmswarm_no_dashes
    not contains -- -- (commandline -opc)
end
function __fish_lmswarm_command
    set -l tokens (commandline -cop) (commandline -ct)
    set -l place (contains -i -- -- $tokens)
    if test -n "$place"; and test $place -lt (count $tokens)
        set tokens $tokens[(math $place + 1)..-1]
        complete -C "$tokens"
    else
        __fish_complete_subcommand --fcs-skip=2
    end
end
complete -c lmswarm -n "__fish_lmswarm_using_subcommand ensure" -f -a "(command lmswarm completions --models 2>/dev/null)"
complete -c lmswarm -n "__fish_lmswarm_using_subcommand run; and __fish_lmswarm_no_dashes" -a "(command lmswarm completions --models 2>/dev/null)"
complete -c lmswarm -n "__fish_lmswarm_using_subcommand run" -a "(__fish_lmswarm_command)"
complete -c lmswarm -n "__fish_lmswarm_using_subcommand ensure; or __fish_lmswarm_using_subcommand run" -l server -x -a "(command lmswarm completions --servers 2>/dev/null)"
