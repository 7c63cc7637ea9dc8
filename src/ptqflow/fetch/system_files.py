"""Names of files and folders that operating systems and network storage put next to the user's."""

_SYSTEM_NAMES = {
    *("@eadir", "@tmp", "@sharesnap", "#recycle", "#snapshot"),  # Synology; #recycle is Samba's, too
    *("@recycle", "@recently-snapshot", "@transcode"),  # QNAP
    *("~snapshot",),  # NetApp
    *("$recycle.bin", "system volume information", "thumbs.db", "ehthumbs.db", "desktop.ini"),  # Windows
    *("__macosx", "network trash folder", "temporary items", "icon\r"),  # macOS
    *("lost+found",),  # Linux
}


def system_name(path: str) -> str | None:
    """Return the part of a path, separated by `/`, that is hidden or the system's; None if there is none.

    Hidden are names with a leading dot, such as `.git` and `.DS_Store`; the `._` files of macOS, each of which has
    another name, are returned as `._*`. The names of systems are compared without regard to case.
    """
    for part in path.split("/"):
        if part.startswith("._"):
            return "._*"
        if part.startswith(".") or part.casefold() in _SYSTEM_NAMES:
            return part
    return None
