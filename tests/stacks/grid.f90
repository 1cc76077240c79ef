! Allocates in recursive Fortran procedures. Ends with 0.
program grid
  implicit none
  integer :: total, round
  total = 0
  do round = 1, 50
    total = total + fold(mod(round, 12), round)
  end do
  if (total <= 0) stop 1
contains
  recursive function fold(depth, width) result(sum)
    integer, intent(in) :: depth, width
    integer :: sum, i
    integer, allocatable :: cells(:, :)
    character(:), allocatable :: name
    allocate (cells(width, 3))
    cells = depth + 1
    name = repeat('x', width)//'y'
    sum = 0
    if (depth > 0) then
      do i = 1, mod(depth, 3) + 1
        sum = sum + fold(depth - 1, mod(width + i, 9) + 1)
      end do
    end if
    sum = mod(sum + size(cells) + len(name), 100000)
  end function fold
end program grid
