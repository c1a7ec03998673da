"""What runs on the program's side of the wall: standard library only, nothing of posttrain but this package.

zygote      the process that forks one child per program, and watches it
walls       namespaces, Landlock, privileges, resource limits
syscalls    which system calls a program may make (seccomp)
roles       what a child does: run a program, serve its functions to tests, run the tests
peer        calls between the process of the tests and the process of the program
"""
