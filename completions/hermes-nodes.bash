_hermes_nodes_completion() {
    local IFS=$'
'
    COMPREPLY=( $( env COMP_WORDS="${COMP_WORDS[*]}" \
                   COMP_CWORD=$COMP_CWORD \
                   _HERMES_NODES_COMPLETE=complete_bash $1 ) )
    return 0
}

complete -o default -F _hermes_nodes_completion hermes-nodes
